"""A run as HTML: progress, layers, and the result. Pure; no gradio.

Everything that a user, a model or a file wrote is escaped here.
"""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lsprism.charts.layer_charts import build_grid
from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.runs import Run
from lsprism.ui.run_views import RunView
from lsprism.ui.texts import Pair
from lsprism.ui.texts import common as texts
from lsprism.units import format_amount, format_duration, format_size

KINDS = {"running": "live", "stopping": "live", "queued": "live", "done": "good", "failed": "bad", "lost": "bad"}


def render_empty(pair: Pair) -> str:
    """An empty state: what is missing, and what to do next."""
    title, text = pair
    return f'<div class="empty"><strong>{escape(title)}</strong><p>{escape(text)}</p></div>'


def format_title(run: Run) -> str:
    """'demo, hybrid at 0.5'."""
    model = str(run.settings.get("model_id") or "")
    name = model.rstrip("/").rpartition("/")[2] if len(model) > 40 else model
    method, sparsity = run.settings.get("method"), run.settings.get("sparsity")
    how = run.verb
    if method and isinstance(sparsity, int | float):
        how = texts.AT_SPARSITY.format(method=method, sparsity=sparsity)
    if run.verb == "spectra":
        return texts.SPECTRA.format(model=Path(model).parent.name or model)
    if sparsities := run.settings.get("sparsities"):
        how = texts.SWEEP.format(sparsities=str(sparsities).strip("[]"))
    return ", ".join(filter(None, (name, how))) or texts.UNKNOWN


def render_badge(run: Run) -> str:
    return f'<span class="badge {KINDS.get(run.state, "")}">{texts.STATES[run.state]}</span>'


def render_progress_card(view: RunView) -> str:
    """Title, state, bar with time left, layers, and the result or the error."""
    run = view.run
    head = (
        f'<div class="head"><strong>{escape(format_title(run))}</strong>{render_badge(run)}<code>{escape(run.id)}'
        f"</code></div>"
    )
    parts = [head, _render_bar(view), render_layer_bars(view.layers, view.blocks)]
    if run.message:
        parts.append(
            f'<div class="note {"bad" if run.state in ("failed", "lost") else ""}">'
            f"<strong>{escape(run.message)}</strong> {escape(run.hint)}</div>"
        )
    if isinstance(view.report, CompressionReport) and run.state == "done":
        parts.append(render_result(view.report))
    return f'<div class="card run">{"".join(parts)}</div>'


def render_queue(live: Sequence[Run], shown_id: str) -> str:
    """All other active runs, queued ones too; each is a link that opens it."""
    others = [run for run in reversed(live) if run.id != shown_id]
    if not others:
        return ""
    lines = "".join(f"<li>{render_link(run)}{render_badge(run)}</li>" for run in others)
    return f'<div class="card"><h3>{texts.OTHER_RUNS}</h3><ul class="queue">{lines}</ul></div>'


def render_link(run: Run) -> str:
    return f'<a href="?run={escape(run.id)}">{escape(format_title(run))}</a>'


def _render_bar(view: RunView) -> str:
    run, progress = view.run, view.progress
    if run.state == "queued":
        ahead = texts.ONE_RUN if view.ahead == 1 else texts.RUNS.format(count=view.ahead)
        return f'<p class="quiet">{texts.QUEUED.format(ahead=ahead) if view.ahead else texts.NEXT}</p>'
    share = 1.0 if run.state == "done" else progress.fraction if progress else 0.0
    left = ""
    if run.is_active and progress and progress.eta_s is not None and progress.elapsed_s:
        left = texts.LEFT.format(time=format_duration(progress.eta_s))
    elif run.is_active and progress:
        left = texts.ESTIMATING
    stage = view.stage or texts.STARTING
    if run.is_active and progress and stage == "compress":
        step = texts.STEPS.get(progress.step, progress.step)
        stage = texts.BLOCK.format(block=progress.block, count=progress.of, step=step)
    elif run.is_active and progress and stage == "heal":
        stage = texts.DISTILLATION.format(step=progress.block, count=progress.of)
    elif not run.is_active:
        took = (run.ended or 0) - (run.begun or 0)
        stage = texts.TOOK.format(time=format_duration(took)) if run.begun and run.ended else ""
    moving = " moving" if run.is_active else ""
    return (
        f'<div class="bar{moving}" role="progressbar" aria-valuenow="{share * 100:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{texts.PROGRESS}"><i style="width:{share:.1%}"></i></div>'
        f'<div class="under"><span>{escape(stage)}</span><span>{escape(left)}</span><span>{share:.0%}</span></div>'
    )


def render_layer_bars(layers: Sequence[LayerReport], blocks: int) -> str:
    """A column per block, a cell per projection; a cell fills when its layer is done, darker for a larger error."""
    if not blocks:
        return ""
    table = build_grid(layers, "error")
    top = max((layer.error for layer in layers), default=0.0) or 1.0
    names = table.projections or [""]
    rows: list[list[float | None]] = table.values or [[None] * blocks]
    cells = []
    for name, values in zip(names, rows, strict=True):
        for block in range(blocks):
            value = values[block] if block < len(values) else None
            if value is None:
                cells.append("<i></i>")
            else:
                said = texts.LAYER_ERROR.format(block=block + 1, layer=name, error=value)
                cells.append(f'<i class="full" style="--loss:{value / top:.2f}" title="{escape(said)}"></i>')
    done = len({layer.block for layer in layers})
    largest = texts.LARGEST_ERROR_SO_FAR if done < blocks else texts.LARGEST_ERROR
    said = largest.format(error=top) if layers else ""
    label = texts.BLOCKS_DONE_LABEL.format(done=done, count=blocks)
    return (
        f'<div class="grid" style="--blocks:{blocks}" role="img" aria-label="{label}">{"".join(cells)}</div>'
        f'<div class="under"><span>{texts.BLOCKS_DONE.format(done=done, count=blocks)}</span>'
        f"<span>{escape(said)}</span></div>"
    )


def render_result(report: CompressionReport) -> str:
    """The result of a compression."""
    share = report.kept_parameters / report.model_parameters
    error = sum(layer.error for layer in report.layers) / max(1, len(report.layers))
    rows = {
        texts.SIZE: texts.SIZE_OF.format(
            after=format_size(report.stored_bytes), before=format_size(report.dense_stored_bytes)
        ),
        texts.PARAMETERS: texts.PARAMETERS_OF.format(
            share=share, kept=format_amount(report.kept_parameters), all=format_amount(report.model_parameters)
        ),
        texts.ERROR_MEAN: f"{error:.1%}",
        texts.PEAK_MEMORY: format_size(report.peak_memory_bytes),
        texts.CALIBRATION: report.calibration,
        texts.ARTIFACT: str(report.save_path),
    }
    return render_pairs(rows)


def render_pairs(rows: dict[str, str]) -> str:
    """Names and values; empty ones are left out."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items() if value)
    return f'<dl class="pairs">{lines}</dl>'


def format_time(seconds: float | None) -> str:
    """Local time; without the date if it is today."""
    if not seconds:
        return ""
    now, then = time.localtime(), time.localtime(seconds)
    today = (now.tm_year, now.tm_yday) == (then.tm_year, then.tm_yday)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)
