"""The list of runs and the page of one run, as plain values and HTML. Pure; no gradio."""

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from lsprism.runs import Run
from lsprism.runs.argv import format_command_line
from lsprism.ui.cards import format_time, format_title, render_badge, render_empty, render_pairs
from lsprism.ui.texts import common
from lsprism.ui.texts import runs as texts
from lsprism.units import format_amount, format_duration, format_size

HEADERS = texts.HEADERS
NO_RUNS = render_empty(texts.NO_RUNS)

# How each metric is written; its key is the name in `Run.figures`.
FIGURES: dict[str, Callable[[Any], str]] = {
    "stored_bytes": format_size,
    "dense_stored_bytes": format_size,
    "kept_parameters": format_amount,
    "model_parameters": format_amount,
    "seconds": format_duration,
    "peak_memory_bytes": format_size,
    "calibration": str,
    "perplexity": "{:.2f}".format,
    "baseline_perplexity": "{:.2f}".format,
    "agreement.kl": "{:.3f}".format,
    "agreement.top1": "{:.1%}".format,
    "tokens_per_s": texts.TOKENS_PER_S.format,
    "baseline_tokens_per_s": texts.TOKENS_PER_S.format,
    "speedup": texts.RATIO.format,
}


def make_rows(found: Sequence[Run]) -> list[list[str]]:
    """A row per run, as HEADERS; the last cell is the id of the run."""
    return [_make_row(run) for run in found]


def _make_row(run: Run) -> list[str]:
    stored = run.figures.get("stored_bytes")
    took = run.ended - run.begun if run.begun and run.ended else None
    return [
        format_title(run),
        common.STATES[run.state],
        format_size(stored) if isinstance(stored, int | float) else "",
        format_duration(took) if took is not None else "",
        format_time(run.created),
        " ".join(run.notes.split()),
        run.id,
    ]


def format_label(run: Run) -> str:
    """The label of a run in a list of choices."""
    return f"{format_title(run)} · {time.strftime('%d %b %H:%M', time.localtime(run.created))} · {run.id[-6:]}"


def render_run(run: Run, folder: str) -> str:
    """Everything about one run except its log."""
    took = run.ended - run.begun if run.begun and run.ended else None
    head = f'<div class="head"><strong>{escape(format_title(run))}</strong>{render_badge(run)}</div>'
    reason = f'<div class="note bad"><strong>{escape(run.message)}</strong> {escape(run.hint)}</div>'
    facts = {
        texts.ID: run.id,
        texts.STARTED: texts.STARTED_FROM.format(time=format_time(run.begun), origin=run.origin) if run.begun else "",
        texts.DURATION: format_duration(took) if took is not None else "",
        **collect_metrics(run),
        texts.OUTPUT: str(run.artifact or ""),
        texts.FOLDER: folder,
    }
    command = ""
    if run.verb:
        command = f"<details><summary>{texts.COMMAND}</summary><pre>{escape(format_command_line(run))}</pre></details>"
    anchor = f'<p class="quiet"><a href="?run={escape(run.id)}">{texts.LINK}</a></p>'
    return f'<div class="card">{head}{reason if run.message else ""}{render_pairs(facts)}{command}{anchor}</div>'


def collect_metrics(run: Run) -> dict[str, str]:
    """The metrics of a run as text, by their labels."""
    found = {}
    for key, shown in FIGURES.items():
        value = run.figures.get(key)
        if value is not None:
            found[texts.METRICS[key]] = shown(value) if shown is str or isinstance(value, int | float) else ""
    return found


def find_differences(one: Run, other: Run) -> list[tuple[str, str, str]]:
    """The metrics of both runs, then the settings in which they differ: name, one, other."""
    ours, theirs = collect_metrics(one), collect_metrics(other)
    found = [(name, ours.get(name, ""), theirs.get(name, "")) for name in dict.fromkeys([*ours, *theirs])]
    mine, its = _flatten(one.settings), _flatten(other.settings)
    for name in dict.fromkeys([*mine, *its]):
        if mine.get(name) != its.get(name) and name not in ("resume", "force"):
            found.append((name.replace("_", " "), str(mine.get(name, "")), str(its.get(name, ""))))
    return found


def render_comparison(one: Run, other: Run) -> str:
    """Two runs side by side."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(a)}</td><td>{escape(b)}</td></tr>"
        for name, a, b in find_differences(one, other)
    )
    head = "".join(f"<th>{escape(format_label(run))}</th>" for run in (one, other))
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="card wide compared">{table}</div>'


def _flatten(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flatten(value, f"{name} ") if isinstance(value, dict) else {before + name: value}
    return found
