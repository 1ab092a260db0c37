"""Errors that `inspect` predicts for the real demo model, compared with those of a run."""

import time

import pytest

from lsprism import api
from lsprism.calibration.sensitivity_cache import traits_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALIBRATION = {"source": "embedded", "samples": 8, "length": 128}


def test_errors_between_two_runs_are_predicted_within_ten_percent(tmp_path):
    asked = {"method": "wanda", "calibration": CALIBRATION}
    for sparsity in (0.4, 0.6):
        api.compress("demo", tmp_path / str(sparsity), sparsity=sparsity, **asked)
    started = time.process_time()
    plan = api.inspect("demo", sparsity=0.5, **asked)
    assert time.process_time() - started < 1
    reached = api.compress("demo", tmp_path / "0.5", sparsity=0.5, **asked).layers
    assert [p.error for p in plan.sites] == pytest.approx([layer.error for layer in reached], rel=0.1)
    assert list(traits_folder().glob("achieved-*.json"))
