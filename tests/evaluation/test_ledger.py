"""A figure is measured once for each thing that it depends on, in memory and across processes."""

import errno
import os

import pytest

from lsprism.errors import DiskError
from lsprism.evaluation.ledger import Ledger
from lsprism.evaluation.steps import finished
from lsprism.events import Progress
from lsprism.figures import SizeFigure

FIGURE = SizeFigure(kept_parameters=3, model_parameters=4, stored_bytes=5, resident_bytes=6, dtype="bfloat16")
KEY = {"measure": "sizes", "model": "abc", "context": 8}


class Measure:
    """Counts how often it is run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self):
        self.runs += 1
        yield Progress(step="sizes", block=1, of=1, fraction=1.0, elapsed_s=0.0)
        return FIGURE


def test_the_second_time_nothing_is_measured_and_the_figure_is_the_same(tmp_path):
    measure = Measure()
    ledger = Ledger(tmp_path)
    assert finished(ledger.once(SizeFigure, KEY, measure)) == FIGURE
    assert finished(ledger.once(SizeFigure, KEY, measure)) == FIGURE
    assert finished(Ledger(tmp_path).once(SizeFigure, KEY, measure)) == FIGURE
    assert measure.runs == 1


@pytest.mark.parametrize("change", [{"model": "abd"}, {"context": 9}, {"measure": "other"}, {"windows": 4}])
def test_anything_that_it_depends_on_makes_it_another_figure(tmp_path, change):
    measure, ledger = Measure(), Ledger(tmp_path)
    finished(ledger.once(SizeFigure, KEY, measure))
    finished(ledger.once(SizeFigure, {**KEY, **change}, measure))
    assert measure.runs == 2


def test_lists_are_kept_too(tmp_path):
    def measure():
        yield from ()
        return [FIGURE, FIGURE]

    finished(Ledger(tmp_path).once(list[SizeFigure], KEY, measure))
    again = finished(Ledger(tmp_path).once(list[SizeFigure], KEY, lambda: pytest.fail("measured again")))
    assert again == [FIGURE, FIGURE]


def test_a_file_of_another_shape_is_measured_again(tmp_path):
    measure = Measure()
    finished(Ledger(tmp_path).once(SizeFigure, KEY, measure))
    (path,) = tmp_path.iterdir()
    path.write_text('{"kept_parameters": 1}')
    assert finished(Ledger(tmp_path).once(SizeFigure, KEY, measure)) == FIGURE
    assert measure.runs == 2


def test_a_stopped_measure_leaves_nothing(tmp_path):
    steps = Ledger(tmp_path).once(SizeFigure, KEY, Measure())
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_plainly(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="the disk is full"):
        finished(Ledger(tmp_path).once(SizeFigure, KEY, Measure()))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[" * 5000])
def test_a_damaged_figure_is_measured_again(tmp_path, content):
    measure = Measure()
    finished(Ledger(tmp_path).once(SizeFigure, KEY, measure))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert finished(Ledger(tmp_path).once(SizeFigure, KEY, measure)) == FIGURE
    assert measure.runs == 2
    assert finished(Ledger(tmp_path).once(SizeFigure, KEY, measure)) == FIGURE
    assert measure.runs == 2
