"""The list of runs and one run's page as plain values and HTML. Pure; no gradio."""

import time
from collections.abc import Sequence
from html import escape
from typing import Any

from lsprism.charts.units import amount, duration, size
from lsprism.runs import Run
from lsprism.runs.command import line_of
from lsprism.ui.cards import WORDS, badge, empty, moment, pairs, title_of

HEADERS = ("what", "state", "on disk", "took", "when", "notes", "run")
NO_RUNS = empty("No runs yet", "Start a compression on the first tab, or from the command line: it will appear here.")

# Figures that people compare, and how they are written.
FIGURES: dict[str, tuple[str, Any]] = {
    "stored_bytes": ("on disk", size),
    "dense_stored_bytes": ("on disk before", size),
    "kept_parameters": ("parameters kept", amount),
    "model_parameters": ("parameters before", amount),
    "seconds": ("time of work", duration),
    "peak_memory_bytes": ("peak memory", size),
    "calibration": ("calibrated on", str),
    "compressed.perplexity.value": ("perplexity", lambda value: f"{value:.2f}"),
    "baseline.perplexity.value": ("perplexity before", lambda value: f"{value:.2f}"),
    "agreement.kl": ("KL to the baseline", lambda value: f"{value:.3f}"),
    "agreement.top1": ("same likeliest token", lambda value: f"{value:.1%}"),
    "speed.ratio": ("speed-up", lambda value: f"{value:.2f}x"),
}


def rows(found: Sequence[Run]) -> list[list[str]]:
    """A row per run under HEADERS; the last cell is the run's id."""
    return [_row(run) for run in found]


def _row(run: Run) -> list[str]:
    stored = run.figures.get("stored_bytes")
    took = run.ended - run.begun if run.begun and run.ended else None
    return [
        title_of(run),
        WORDS[run.state],
        size(stored) if isinstance(stored, int | float) else "",
        duration(took) if took is not None else "",
        moment(run.created),
        " ".join(run.notes.split()),
        run.id,
    ]


def label_of(run: Run) -> str:
    """As it is called where one of many is chosen."""
    return f"{title_of(run)} · {time.strftime('%d %b %H:%M', time.localtime(run.created))} · {run.id[-6:]}"


def page_of(run: Run, folder: str) -> str:
    """Everything that is known of one run, but its log."""
    took = run.ended - run.begun if run.begun and run.ended else None
    head = f'<div class="head"><strong>{escape(title_of(run))}</strong>{badge(run)}</div>'
    reason = f'<div class="note bad"><strong>{escape(run.message)}</strong> {escape(run.hint)}</div>'
    facts = {
        "Run": run.id,
        "Started": f"{moment(run.begun)} from the {run.origin}" if run.begun else "",
        "Took": duration(took) if took is not None else "",
        **figures(run),
        "Result": str(run.artifact or ""),
        "Folder": folder,
    }
    command = f"<details><summary>Command</summary><pre>{escape(line_of(run))}</pre></details>" if run.verb else ""
    anchor = f'<p class="quiet"><a href="?run={escape(run.id)}">Link to this run</a></p>'
    return f'<div class="card">{head}{reason if run.message else ""}{pairs(facts)}{command}{anchor}</div>'


def figures(run: Run) -> dict[str, str]:
    """Those that people compare, by their names, as text."""
    found = {}
    for key, (name, shown) in FIGURES.items():
        value = run.figures.get(key)
        if value is not None:
            found[name[:1].upper() + name[1:]] = shown(value) if shown is str or isinstance(value, int | float) else ""
    return found


def differences(one: Run, other: Run) -> list[tuple[str, str, str]]:
    """Figures of both, then the settings in which they differ: name, one, other."""
    ours, theirs = figures(one), figures(other)
    found = [(name, ours.get(name, ""), theirs.get(name, "")) for name in dict.fromkeys([*ours, *theirs])]
    mine, its = _flat(one.settings), _flat(other.settings)
    for name in dict.fromkeys([*mine, *its]):
        if mine.get(name) != its.get(name) and name not in ("resume", "force"):
            found.append((name.replace("_", " "), str(mine.get(name, "")), str(its.get(name, ""))))
    return found


def comparison(one: Run, other: Run) -> str:
    """Two runs beside each other."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(a)}</td><td>{escape(b)}</td></tr>"
        for name, a, b in differences(one, other)
    )
    head = "".join(f"<th>{escape(label_of(run))}</th>" for run in (one, other))
    return f'<div class="card wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{name} ") if isinstance(value, dict) else {before + name: value}
    return found
