"""A model is loaded completely, in the requested dtype and on the requested device, or it is an error."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file, save_file

import lsprism
from lsprism.errors import DamagedError, LSPrismError, SourceError, SpecError
from lsprism.models.load import load, select_device, select_dtype
from lsprism.models.source import resolve

NORM = "model.norm.weight"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to modify."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def configure(folder: Path, **changes) -> Path:
    """Change config.json; None removes the entry."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(folder: Path, **how):
    return load(resolve(str(folder)), **{"device": "cpu"} | how)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_folder_loads(tmp_path, tied):
    made = loaded(make_model(tmp_path / "m", tied=tied))
    assert (made.dtype, made.device) == (torch.bfloat16, torch.device("cpu"))
    assert not made.model.training and not any(p.requires_grad for p in made.model.parameters())
    assert (made.model.lm_head.weight is made.model.model.embed_tokens.weight) == tied


def test_a_dense_source_and_its_artifact_load_with_one_function(folder, text_file, tmp_path):
    calibration = dict(source=str(text_file), samples=4, length=16)
    lsprism.compress(folder, tmp_path / "out", method="wanda", calibration=calibration, device="cpu")
    dense, packed = lsprism.load(str(folder), device="cpu"), lsprism.load(str(tmp_path / "out"), device="cpu")
    assert (dense.source.kind, packed.source.kind) == ("folder", "artifact")
    tokens = torch.arange(3, 19).unsqueeze(0)
    shapes = [made.model(input_ids=tokens).logits.shape for made in (dense, packed)]
    assert shapes[0] == shapes[1]
    assert sum(p.nbytes for p in packed.model.parameters()) < sum(p.nbytes for p in dense.model.parameters())


# --- dtype and device -------------------------------------------------------------------------------------------------


def test_the_default_dtype_is_that_of_the_config(folder):
    assert select_dtype("auto", resolve(str(configure(folder, dtype="float16")))) == torch.float16


def test_without_a_dtype_in_the_config_that_of_the_tensors_is_used(folder):
    assert loaded(configure(folder, dtype=None, torch_dtype=None)).dtype == torch.bfloat16


def test_the_requested_dtype_takes_precedence(folder):
    made = loaded(folder, dtype="float32")
    assert made.dtype == torch.float32 and {p.dtype for p in made.model.parameters()} == {torch.float32}


def test_an_unsupported_dtype_is_an_error(folder):
    source = resolve(str(configure(folder, dtype="float64")))
    with pytest.raises(SpecError, match="float64"):
        select_dtype("auto", source)
    assert select_dtype("float32", source) == torch.float32
    with pytest.raises(SpecError, match="'int4' is unknown"):
        select_dtype("int4", source)


def test_an_unknown_device_is_an_error():
    for name in ("tpu", "cuda:x", "cpu:1"):
        with pytest.raises(SpecError, match=name):
            select_device(name)


def test_an_unavailable_device_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert select_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(SpecError, match="sees 1 CUDA devices"):
        select_device("cuda:1")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_missing_tensor_is_an_error_instead_of_random_weights(folder):
    rewrite(folder, lambda tensors: tensors.pop(NORM))
    with pytest.raises(DamagedError, match=f"no tensor for {NORM}"):
        loaded(folder)


def test_a_misshapen_tensor_is_an_error(folder):
    rewrite(folder, lambda tensors: tensors.update({NORM: torch.ones(8)}))
    with pytest.raises(DamagedError, match=rf"{NORM} in .*model.safetensors has shape \(8,\), not \(32,\)"):
        loaded(folder)


def test_a_bias_excluded_by_the_config_is_an_error(folder):
    name = "model.layers.0.mlp.up_proj.bias"
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(48)}))
    with pytest.raises(DamagedError, match=name):
        loaded(folder)


def test_a_head_for_another_task_is_ignored(folder):
    rewrite(folder, lambda tensors: tensors.update({"score.weight": torch.ones(2, 32)}))
    assert loaded(folder).dtype == torch.bfloat16


def test_a_truncated_file_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(DamagedError, match=r"model\.safetensors cannot be read"):
        loaded(folder)


# --- quantized models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "torchao"}}}, "torchao"),
    ],
)
def test_a_quantized_model_is_an_error_that_names_the_format(folder, entry, name):
    with pytest.raises(SourceError, match=rf"already quantized \({name}") as refused:
        resolve(str(configure(folder, **entry)))
    assert "unquantized" in refused.value.hint or "dense copy" in refused.value.hint


def test_every_error_has_a_next_step(folder):
    for spoil in (
        lambda: configure(folder, quantization_config={"quant_method": "hqq"}),
        lambda: configure(folder, quantization_config=None, dtype="float64"),
    ):
        spoil()
        with pytest.raises(LSPrismError) as refused:
            loaded(folder)
        assert refused.value.hint


# --- malformed files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "{}", '{"added_tokens": []}', '{"added_tokens": [], "model": 7}'])
def test_a_malformed_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    error = refused(folder, SourceError)
    assert f"The tokenizer in {folder} cannot be read" in error.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "abc"}, "hidden_size"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"hidden_act": "zilu"}, "'zilu'"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "spiral"),
    ],
)
def test_a_config_that_does_not_describe_a_model(folder, changes, said):
    configure(folder, **changes)
    error = refused(folder, SourceError)
    assert f"{folder / 'config.json'} does not describe a model" in error.message and said in error.message
    with pytest.raises(SourceError, match="does not describe a model"):
        lsprism.inspect(folder)


def test_an_attention_that_is_not_installed_has_a_hint(folder):
    configure(folder, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    assert "Remove attn_implementation" in refused(folder, SourceError).hint


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [("torch.bfloat16", "Write 'bfloat16'"), ("auto", "remove the entry"), ("nn", "remove the entry")],
)
@pytest.mark.parametrize("entry", ["dtype", "torch_dtype"])
def test_an_unknown_dtype_in_the_config_is_named(folder, entry, dtype, hint):
    configure(folder, **{"dtype": None, entry: dtype})
    error = refused(folder, SourceError)
    assert f"{entry} is {dtype!r}" in error.message and hint in error.hint


def test_an_index_without_metadata_is_compressed_but_not_loaded(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = load_file(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")})
    )
    assert lsprism.inspect(folder).sites
    assert '"metadata": {}' in refused(folder, DamagedError).hint


def refused(folder: Path, kind: type[LSPrismError]) -> LSPrismError:
    """The error of `lsprism.load`, given a path: one sentence with a next step."""
    with pytest.raises(kind) as caught:
        lsprism.load(folder, device="cpu")
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message and caught.value.hint
    return caught.value
