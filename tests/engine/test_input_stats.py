"""Input statistics equal those of the model's own forward, per layer; broken weights are reported."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file, save_file
from tiny_runs import digests
from torch import nn
from transformers import AutoModelForCausalLM

from lsprism import api
from lsprism.calibration.sample import sample_windows
from lsprism.engine.input_stats import _InputStatsHook
from lsprism.errors import NumericError, SourceError
from lsprism.events import Finished, Progress, Stage
from lsprism.records.compression import StatsReport
from lsprism.specs import PlanSpec, validate

NORM = "model.layers.1.input_layernorm.weight"
SHAPE = {"samples": 6, "length": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Feature 5 of the second block's attention is always zero, feature 3 is scaled by a thousand."""
    folder = make_model(tmp_path_factory.mktemp("models") / "tiny", dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM][5], tensors[NORM][3] = 0, 1000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def survey_of(model: Path, text: Path) -> list:
    spec = validate(PlanSpec, model_id=str(model), device="cpu", calibration={"source": str(text), **SHAPE})
    return list(api.check_stats(spec))


@pytest.fixture(scope="module")
def report(model, text_file) -> StatsReport:
    return survey_of(model, text_file)[-1].report


def own_inputs(model: Path, text: Path) -> dict[str, torch.Tensor]:
    """Layer -> its inputs [tokens, columns] in a forward pass of transformers over the same tokens."""
    loaded, seen = AutoModelForCausalLM.from_pretrained(model).eval(), {}
    for name, part in loaded.model.layers.named_modules(prefix="model.layers"):
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].flatten(0, 1)}))
    source = api.resolve(str(model))
    tokens, _, _ = sample_windows(validate(PlanSpec, model_id="x", calibration={"source": str(text), **SHAPE}), source)
    with torch.no_grad():
        loaded(tokens)
    return seen


def test_every_statistic_is_that_of_the_models_own_forward(model, text_file, report):
    seen = own_inputs(model, text_file)
    assert [site.name for site in report.sites] == list(seen)
    for site in report.sites:
        x = seen[site.name].double()
        norms = x.norm(dim=0)
        assert (site.tokens, site.columns, site.block) == (*x.shape, int(site.name.split(".")[2]))
        assert site.mean == pytest.approx(x.abs().mean().item(), rel=1e-4)
        assert site.max == pytest.approx(x.abs().max().item(), rel=1e-4)
        assert site.norm == pytest.approx(norms.mean().item(), rel=1e-4)
        assert site.outlier_share == (norms > 5 * norms.mean()).double().mean().item()
        assert site.dead == (norms == 0).sum().item()


def test_a_large_feature_is_an_outlier_and_a_zero_one_is_dead(report):
    sites = {site.name: site for site in report.sites}
    query = sites["model.layers.1.self_attn.q_proj"]
    assert (query.dead, query.outlier_share) == (1, 1 / 32)
    assert sites["model.layers.0.self_attn.q_proj"].dead == 0
    assert sites["model.layers.0.self_attn.q_proj"].outlier_share == 0


def test_the_report_names_the_calibration(model, text_file, report):
    assert (report.model_id, report.calibration) == (str(model), text_file.name)
    assert (report.samples, report.length) == (6, 24)


def test_events_show_progress_and_the_source_is_unchanged(model, text_file):
    before = digests(model)
    events = survey_of(model, text_file)
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Stage, Finished]
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert digests(model) == before


def test_inputs_passed_by_keyword_are_measured():
    layer, meter = nn.Linear(4, 2), _InputStatsHook(4)
    layer.register_forward_pre_hook(meter.update, with_kwargs=True)
    layer(input=torch.ones(3, 4))
    assert (meter.tokens, meter.get_stats("x", 0).mean) == (3, 1.0)


def test_nan_weights_are_reported_with_their_layer(model, text_file, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    tensors[f"{name}.weight"][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericError, match=f"^The weight of {name} contains NaN or Inf"):
        survey_of(broken, text_file)


def test_an_artifact_is_refused_with_the_reason(model, text_file, tmp_path):
    calibration = {"source": str(text_file), **SHAPE}
    api.compress(model, tmp_path / "out", method="wanda", calibration=calibration)
    with pytest.raises(SourceError, match="already compressed and cannot be compressed again[.] .* base model, tiny,"):
        survey_of(tmp_path / "out", text_file)
    with pytest.raises(SourceError, match="already compressed"):
        api.inspect(tmp_path / "out")
