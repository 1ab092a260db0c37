"""Events on standard error, with and without a terminal; reports as tables."""

import io
import time

import pytest
from rich.console import Console

from lsprism.cli import display
from lsprism.cli.display import Display, format_remaining, format_worst_layer
from lsprism.events import BlockDone, Notice, Progress, Stage
from lsprism.records.compression import LayerReport


def layer(name: str, error: float) -> LayerReport:
    return LayerReport(
        name=name,
        block=0,
        rows=2,
        columns=3,
        form="sparse",
        kept=3,
        rank=0,
        stored_bytes=8,
        dense_bytes=12,
        error=error,
    )


EVENTS = [
    Stage(name="compress", detail="30 blocks"),
    Progress(step="measure", block=2, of=30, fraction=0.05, elapsed_s=9, eta_s=65),
    Notice(text="A path with [/] and :smile: in it."),
    BlockDone(block=2, of=30, layers=[layer("model.layers.1.mlp.up", 0.25), layer("x.down", 0.125)], seconds=2.25),
]


def shown(terminal: bool, monkeypatch, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False, color_system=None
    )
    monkeypatch.setattr(display, "errors", console)
    with Display() as view:
        for event in EVENTS:
            view.show(event)
        if terminal:
            view.bar.refresh()
    return out.getvalue()


def test_without_a_terminal_there_are_lines_only(monkeypatch):
    assert shown(False, monkeypatch).splitlines() == [
        "compress  30 blocks",
        "  A path with [/] and :smile: in it.",
        "  block 2/30  2.2 s  largest output error 25.0% at up  1 min 05 s left",
    ]


def test_without_a_terminal_no_line_is_broken(monkeypatch):
    assert len(shown(False, monkeypatch, width=20).splitlines()) == 3


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_a_bar_tells_stage_blocks_share_and_time_in_one_line(monkeypatch, width):
    text = shown(True, monkeypatch, width)
    bar = next(line for line in text.replace("\r", "\n").splitlines() if "block 2/30" in line and "1 min" in line)
    for word in ("compress", "block 2/30", "5%", "measure", "1 min 05 s left"):
        assert word in bar
    assert "A path with [/] and :smile: in it." in text, "a notice while the bar is live"


def test_before_a_block_is_timed_the_bar_says_so(monkeypatch):
    monkeypatch.setattr(display, "errors", Console(file=io.StringIO(), force_terminal=True, width=80))
    with Display() as view:
        view.show(Stage(name="compress"))
        view.show(Progress(step="measure", block=1, of=30, fraction=0.01, elapsed_s=1))
        assert "estimating time left" in view.bar.tasks[0].fields["state"]


def test_a_new_stage_has_no_share_yet(monkeypatch):
    monkeypatch.setattr(display, "errors", Console(file=io.StringIO(), force_terminal=True, width=80))
    with Display() as view:
        for event in EVENTS:
            view.show(event)
        view.show(Stage(name="write"))
        assert view.bar.tasks[0].total is None
        assert view.bar.tasks[0].description == "write"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0 s left"), (59.6, "1 min 00 s left"), (61, "1 min 01 s left"), (3900, "1 h 05 min left")],
)
def test_remaining(seconds, text):
    assert format_remaining(seconds) == text


def test_worst_names_the_layer_with_the_largest_error():
    assert format_worst_layer(EVENTS[3]) == "largest output error 25.0% at up"
    assert format_worst_layer(BlockDone(block=1, of=1, layers=[], seconds=1)) == ""


def lines_after(seconds: float, monkeypatch, *events) -> list[str]:
    """What is printed without a terminal within `seconds` after these events."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, highlight=False, markup=False, color_system=None)
    for name, value in (("errors", console), ("FIRST_S", 0.05), ("QUIET_S", 0.15), ("TICK_S", 0.01)):
        monkeypatch.setattr(display, name, value)
    with Display() as view:
        for event in events:
            view.show(event)
        time.sleep(seconds)
    return out.getvalue().splitlines()


def test_without_a_terminal_a_long_block_is_no_silence(monkeypatch):
    progress = Progress(step="measure", block=2, of=30, fraction=0.05, elapsed_s=9, eta_s=65.4)
    lines = lines_after(0.5, monkeypatch, Stage(name="measure", detail="30 blocks"), progress)
    assert lines[0] == "measure  30 blocks"
    assert 3 <= len(lines[1:]) <= 4, "the first after FIRST_S, and one every QUIET_S"
    assert set(lines[1:]) == {"  measure block 2/30  5%  1 min 05 s left"}


def test_without_a_terminal_a_stage_without_progress_is_no_silence(monkeypatch):
    lines = lines_after(0.3, monkeypatch, Stage(name="upload", detail="me/copy"))
    assert lines[:2] == ["upload  me/copy", "  upload: 0 s so far"]


def test_the_remaining_time_passes_though_nothing_happens(monkeypatch):
    progress = Progress(step="spectra", block=1, of=4, fraction=0.2, elapsed_s=9, eta_s=0.1)
    lines = lines_after(0.4, monkeypatch, Stage(name="spectra"), progress)
    assert lines[1] == "  spectra 1/4  20%  0 s left" and lines[-1] == "  spectra 1/4  20%", "then it is not known"


def test_a_closed_display_prints_nothing_more(monkeypatch):
    lines_after(0.1, monkeypatch, Stage(name="upload"))
    out = io.StringIO()
    monkeypatch.setattr(display, "errors", Console(file=out))
    time.sleep(0.3)
    assert out.getvalue() == ""
