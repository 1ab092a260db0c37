"""--values int8 with every method: the plan matches the files, and the artifact loads without further loss."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import asked, digests, done, stopped_after
from transformers import AutoModelForCausalLM

from lsprism import api
from lsprism.artifact.manifest import read_report
from lsprism.evaluation.sizes import measure_sizes
from lsprism.evaluation.spectra import iter_spectra
from lsprism.methods import METHODS
from lsprism.models.source import resolve
from lsprism.packed.modules import PrismLinear

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = torch.tensor([[1, 5, 6, 7, 9, 3, 8]])


@pytest.fixture(scope="module", params=METHODS)
def made(request, tiny_folder, text_file, tmp_path_factory):
    """The report, the artifact's folder and its method."""
    out = tmp_path_factory.mktemp("int8") / "out"
    spec = asked(tiny_folder, text_file, out, method=request.param, values="int8")
    return done(spec)[-1].report, out, spec


def test_planned_bytes_are_those_on_disk_and_in_memory(made):
    report, out, spec = made
    plan = api.plan_from_spec(spec)
    assert {site.values for site in plan.sites} == {layer.values for layer in report.layers} == {"int8"}
    assert [site.stored_bytes for site in plan.sites] == [layer.stored_bytes for layer in report.layers]
    assert plan.stored_bytes == report.stored_bytes == sum(path.stat().st_size for path in out.glob("*.safetensors"))
    loaded = api.load(out)
    found = measure_sizes(loaded)
    assert found.resident_bytes == plan.resident_bytes
    assert found.kept_parameters == report.kept_parameters
    floats = api.plan_from_spec(spec.model_copy(update={"values": "float"}))
    assert report.layer_stored_bytes < 0.75 * floats.layer_stored_bytes  # scales are a large part of tiny matrices
    assert all(0 < layer.error < 1 for layer in report.layers)


def test_it_loads_again_exactly(made, tmp_path):
    _, out, _ = made
    model = AutoModelForCausalLM.from_pretrained(out)
    stored = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
    state = model.state_dict()
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in stored.items()
    )
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    half = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float16)
    layers = [module for module in half.modules() if isinstance(module, PrismLinear)]
    assert {module.form.dtype for module in layers} == {torch.float16}
    assert {module.weight.dtype for module in layers} == {torch.int8}


def test_the_dense_copy_has_the_same_logits(made, tmp_path):
    _, out, _ = made
    api.export(out, tmp_path / "dense")
    dense, packed = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "dense", out))
    for name, module in packed.named_modules():
        if isinstance(module, PrismLinear):
            assert torch.equal(dense.get_submodule(name).weight, module.form.to_dense())


def test_singular_values_are_those_of_the_rounded_matrix(made, tiny_folder):
    report, out, _ = made
    first = next(iter(iter_spectra(out, resolve(str(tiny_folder)), set())))
    kept = read_report(out).layers[0]
    assert kept.values == "int8" and first.name == report.layers[0].name and first.kept_energy > 0


def test_a_resumed_run_ends_with_the_same_bytes(tiny_folder, text_file, tmp_path):
    whole, parts = (asked(tiny_folder, text_file, tmp_path / name, values="int8") for name in ("whole", "parts"))
    done(whole)
    stopped_after(parts, 1)
    done(parts.model_copy(update={"resume": True}))
    assert digests(tmp_path / "whole") == digests(tmp_path / "parts")


def test_unknown_value_types_are_refused(tiny_folder, text_file, tmp_path):
    out = tmp_path / "out"
    done(asked(tiny_folder, text_file, out, method="wanda", values="int8"))
    config = json.loads((out / "config.json").read_text())
    for wrong in ("int4", "float"):
        next(iter(config["quantization_config"]["modules"].values()))["values"] = wrong
        (out / "config.json").write_text(json.dumps(config))
        with pytest.raises(Exception, match="int4|scales|weight"):
            AutoModelForCausalLM.from_pretrained(out)
