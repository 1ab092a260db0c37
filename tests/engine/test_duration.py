"""Predicted duration of a compression: it is proportional to the work."""

import pytest
import torch
from conftest import make_model

import lsprism
from lsprism.engine import duration


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    monkeypatch.setattr(duration, "measure_rates", lambda storage: {torch.bfloat16: 1e9, torch.float32: 4e9})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3)


def predict(model, **settings):
    return lsprism.inspect(model, device="cpu", **settings).duration


def test_twice_the_tokens_take_twice_the_forward_passes(model):
    def blocks(samples):
        return predict(model, method="magnitude", calibration={"samples": samples, "length": 64}).blocks

    assert blocks(200) - blocks(100) == pytest.approx(blocks(300) - blocks(200))
    assert blocks(200) == pytest.approx(2 * blocks(100), rel=0.05)


def test_a_slower_compute_dtype_and_a_slower_method_take_longer(model):
    assert predict(model, compute_dtype="bfloat16").blocks > predict(model, compute_dtype="float32").blocks
    times = [predict(model, method=method).blocks for method in ("wanda", "sparsegpt", "hybrid")]
    assert times == sorted(times) and predict(model, effort="best").blocks > times[-1]


def test_only_rules_with_measurements_take_time_before_the_run(model):
    assert predict(model, method="wanda", allocation="uniform").sensitivity == 0
    found = predict(model, method="hybrid", allocation="sensitivity")
    assert 0 < found.sensitivity < found.blocks and found.total == found.sensitivity + found.blocks
