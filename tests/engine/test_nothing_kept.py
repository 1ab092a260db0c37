"""Layers without any kept weights work and are announced; errors after publishing do not lose the report."""

import json

import pytest
import torch

from lsprism import api
from lsprism.cli import main
from lsprism.engine import error_prediction
from lsprism.packed.modules import PrismLinear

pytestmark = pytest.mark.usefixtures("one_thread")

SPARSE = ("hybrid", "oats", "sparsegpt", "wanda", "magnitude")


def compress(tiny_folder, text_file, out, **settings) -> object:
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    return api.compress(str(tiny_folder), out, calibration=calibration, **settings)


@pytest.mark.parametrize("method", SPARSE)
def test_every_method_can_keep_nothing(tiny_folder, text_file, tmp_path, method):
    report = compress(tiny_folder, text_file, tmp_path / "out", method=method, sparsity=0.99999)
    assert {layer.kept for layer in report.layers} == {0}
    model = api.load(tmp_path / "out").model
    layers = [module for module in model.modules() if isinstance(module, PrismLinear)]
    assert len(layers) == len(report.layers)
    x = torch.ones(1, layers[0].in_features, dtype=model.dtype)
    assert torch.equal(layers[0](x), torch.zeros(1, layers[0].out_features, dtype=model.dtype))


def test_int8_and_a_dense_copy_of_nothing_work(tiny_folder, text_file, tmp_path):
    compress(tiny_folder, text_file, tmp_path / "out", values="int8", sparsity=0.99999)
    copy = api.load(api.export(tmp_path / "out", tmp_path / "dense")).model
    assert copy.model.layers[0].mlp.up_proj.weight.count_nonzero() == 0


def test_errors_are_stored_for_predictions(tiny_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LSPRISM_TRAITS", str(tmp_path / "traits"))
    for sparsity in (0.99999, 0.98):
        compress(tiny_folder, text_file, tmp_path / f"{sparsity}", method="wanda", sparsity=sparsity)
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    plan = api.inspect(str(tiny_folder), method="wanda", sparsity=0.99999, calibration=calibration)
    assert plan.mean_error == pytest.approx(1.0, abs=1e-3)


def test_inspect_announces_layers_without_weights(tiny_folder, capsys):
    assert main(["inspect", "--model-id", str(tiny_folder), "--sparsity", "0.99999"]) == 0
    assert "mlp.up_proj keeps no weights at sparsity 0.99999." in capsys.readouterr().out


def test_an_error_after_publishing_is_a_notice(tiny_folder, text_file, tmp_path, monkeypatch, capsys):
    def remember(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(error_prediction, "store_errors", remember)
    words = ["--calibration", str(text_file), "--samples", "2", "--length", "16", "--method", "wanda", "--json"]
    assert main(["compress", "--model-id", str(tiny_folder), "--save-path", str(tmp_path / "out"), *words]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["kept_parameters"] > 0
    assert "is complete, but its errors were not stored for estimates (ZeroDivisionError: division by zero)" in said.err
