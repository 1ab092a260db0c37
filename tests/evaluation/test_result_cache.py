"""A metric is computed once for each key, in memory and across processes."""

import errno
import os

import pytest

from lsprism.errors import DiskError
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.result_cache import ResultCache
from lsprism.events import Progress
from lsprism.records.metrics import SizeResult

FIGURE = SizeResult(kept_parameters=3, model_parameters=4, stored_bytes=5, resident_bytes=6, dtype="bfloat16")
KEY = {"measure": "sizes", "model": "abc", "context": 8}


class Measure:
    """Counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self):
        self.runs += 1
        yield Progress(step="sizes", block=1, of=1, fraction=1.0, elapsed_s=0.0)
        return FIGURE


def test_the_second_time_the_cached_result_is_returned(tmp_path):
    measure = Measure()
    ledger = ResultCache(tmp_path)
    assert run_to_end(ledger.load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert run_to_end(ledger.load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert measure.runs == 1


@pytest.mark.parametrize("change", [{"model": "abd"}, {"context": 9}, {"measure": "other"}, {"windows": 4}])
def test_another_key_is_another_result(tmp_path, change):
    measure, ledger = Measure(), ResultCache(tmp_path)
    run_to_end(ledger.load_or_run(SizeResult, KEY, measure))
    run_to_end(ledger.load_or_run(SizeResult, {**KEY, **change}, measure))
    assert measure.runs == 2


def test_lists_are_cached_too(tmp_path):
    def measure():
        yield from ()
        return [FIGURE, FIGURE]

    run_to_end(ResultCache(tmp_path).load_or_run(list[SizeResult], KEY, measure))
    again = run_to_end(ResultCache(tmp_path).load_or_run(list[SizeResult], KEY, lambda: pytest.fail("measured again")))
    assert again == [FIGURE, FIGURE]


def test_a_file_with_another_structure_is_computed_again(tmp_path):
    measure = Measure()
    run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure))
    (path,) = tmp_path.iterdir()
    path.write_text('{"kept_parameters": 1}')
    assert run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert measure.runs == 2


def test_an_interrupted_metric_is_not_cached(tmp_path):
    steps = ResultCache(tmp_path).load_or_run(SizeResult, KEY, Measure())
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_with_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="the disk is full"):
        run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, Measure()))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[" * 5000])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    measure = Measure()
    run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert measure.runs == 2
    assert run_to_end(ResultCache(tmp_path).load_or_run(SizeResult, KEY, measure)) == FIGURE
    assert measure.runs == 2
