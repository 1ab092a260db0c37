"""A run as HTML: how far it is, its layers as they come, what became of it. Pure; no gradio.

Whatever a user, a model or a file wrote is escaped here.
"""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lsprism.charts.layers import grid
from lsprism.charts.units import amount, duration, size
from lsprism.reports import CompressionReport, LayerReport
from lsprism.runs import Run
from lsprism.ui.watch import View

WORDS = {
    "queued": "waiting for its turn",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "done": "done",
    "failed": "failed",
    "lost": "lost",
    "damaged": "its record is damaged",
}
KINDS = {"running": "live", "stopping": "live", "queued": "live", "done": "good", "failed": "bad", "lost": "bad"}
STEPS = {
    "teach": "the dense block's answers",
    "measure": "reading the inputs",
    "compress": "compressing",
    "learn": "learning to answer as before",
    "propagate": "handing on the outputs",
}


def empty(title: str, text: str) -> str:
    """What to do next where there is nothing to show."""
    return f'<div class="empty"><strong>{escape(title)}</strong><p>{escape(text)}</p></div>'


def title_of(run: Run) -> str:
    """'demo, hybrid at 0.5'."""
    model = str(run.settings.get("model_id") or "")
    name = model.rstrip("/").rpartition("/")[2] if len(model) > 40 else model
    method, sparsity = run.settings.get("method"), run.settings.get("sparsity")
    how = f"{method} at {sparsity:g}" if method and isinstance(sparsity, int | float) else run.verb
    if run.verb == "spectra":
        return f"singular values of {Path(model).parent.name or model}"
    if run.settings.get("sparsities"):
        how = f"sweep over {run.settings.get('sparsities')}".replace("[", "").replace("]", "")
    return ", ".join(filter(None, (name, how))) or "unknown"


def badge(run: Run) -> str:
    return f'<span class="badge {KINDS.get(run.state, "")}">{WORDS[run.state]}</span>'


def progress_card(view: View) -> str:
    """Title, state, bar with time left, layers, and the result or the reason."""
    run = view.run
    head = f'<div class="head"><strong>{escape(title_of(run))}</strong>{badge(run)}<code>{escape(run.id)}</code></div>'
    parts = [head, _bar(view), layer_bars(view.layers, view.blocks)]
    if run.message:
        parts.append(
            f'<div class="note {"bad" if run.state in ("failed", "lost") else ""}">'
            f"<strong>{escape(run.message)}</strong> {escape(run.hint)}</div>"
        )
    if isinstance(view.report, CompressionReport) and run.state == "done":
        parts.append(result(view.report))
    return f'<div class="card run">{"".join(parts)}</div>'


def queue(live: Sequence[Run], shown_id: str) -> str:
    """All other runs that are at work or wait, each a link that opens it."""
    others = [run for run in reversed(live) if run.id != shown_id]
    if not others:
        return ""
    lines = "".join(f"<li>{link(run)}{badge(run)}</li>" for run in others)
    return f'<div class="card"><h3>Also at work, or waiting</h3><ul class="queue">{lines}</ul></div>'


def link(run: Run) -> str:
    return f'<a href="?run={escape(run.id)}">{escape(title_of(run))}</a>'


def _bar(view: View) -> str:
    run, progress = view.run, view.progress
    if run.state == "queued":
        runs = "the run" if view.ahead == 1 else f"{view.ahead} runs"
        return f'<p class="quiet">Begins after {runs} before it.</p>' if view.ahead else '<p class="quiet">Begins …</p>'
    share = 1.0 if run.state == "done" else progress.fraction if progress else 0.0
    left = ""
    if run.live and progress and progress.eta_s is not None and progress.elapsed_s:
        left = f"{duration(progress.eta_s)} left"
    elif run.live and progress:
        left = f"time left: known after this {'block' if view.stage == 'compress' else 'part'}"
    stage = view.stage or "starting"
    if run.live and progress and stage == "compress":
        stage = f"block {progress.block} of {progress.of} · {STEPS.get(progress.step, progress.step)}"
    elif run.live and progress and stage == "heal":
        stage = f"step {progress.block} of {progress.of} · the whole model learns"
    elif not run.live:
        took = (run.ended or 0) - (run.begun or 0)
        stage = f"took {duration(took)}" if run.begun and run.ended else ""
    moving = " moving" if run.live else ""
    return (
        f'<div class="bar{moving}" role="progressbar" aria-valuenow="{share * 100:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="progress"><i style="width:{share:.1%}"></i></div>'
        f'<div class="under"><span>{escape(stage)}</span><span>{escape(left)}</span><span>{share:.0%}</span></div>'
    )


def layer_bars(layers: Sequence[LayerReport], blocks: int) -> str:
    """A column per block, a cell per projection; a cell fills when its layer is done, darker where it lost more."""
    if not blocks:
        return ""
    table = grid(layers, "error")
    top = max((layer.error for layer in layers), default=0.0) or 1.0
    names = table.projections or [""]
    cells = []
    for name, values in zip(names, table.values or [[None] * blocks], strict=True):
        for block in range(blocks):
            value = values[block] if block < len(values) else None
            if value is None:
                cells.append("<i></i>")
            else:
                said = f"block {block + 1}, {name}: output error {value:.1%}"
                cells.append(f'<i class="full" style="--loss:{value / top:.2f}" title="{escape(said)}"></i>')
    done = len({layer.block for layer in layers})
    so_far = " so far" if done < blocks else ""
    said = f"largest output error{so_far} {top:.1%}" if layers else "fills as blocks are done"
    return (
        f'<div class="grid" style="--blocks:{blocks}" role="img" aria-label="{done} of {blocks} blocks are done">'
        f'{"".join(cells)}</div><div class="under"><span>{done} of {blocks} blocks</span>'
        f"<span>{escape(said)}</span></div>"
    )


def result(report: CompressionReport) -> str:
    """What came of a compression, in four lines."""
    kept = report.kept_parameters / report.model_parameters
    error = sum(layer.error for layer in report.layers) / max(1, len(report.layers))
    rows = {
        "On disk": f"{size(report.stored_bytes)} of {size(report.dense_stored_bytes)}",
        "Parameters kept": f"{kept:.0%} ({amount(report.kept_parameters)} of {amount(report.model_parameters)})",
        "Mean output error of a layer": f"{error:.1%}",
        "Peak memory": size(report.peak_memory_bytes),
        "Calibrated on": report.calibration,
        "Artifact": str(report.save_path),
    }
    return pairs(rows)


def pairs(rows: dict[str, str]) -> str:
    """Names and values; empty ones are left out."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items() if value)
    return f'<dl class="pairs">{lines}</dl>'


def moment(seconds: float | None) -> str:
    """Local time, without the date if it is today."""
    if not seconds:
        return ""
    now, then = time.localtime(), time.localtime(seconds)
    today = (now.tm_year, now.tm_yday) == (then.tm_year, then.tm_yday)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)
