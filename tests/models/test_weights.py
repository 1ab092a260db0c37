"""Checkpoints are read by the model's names, completely or not at all, and released again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lsprism.errors import DamagedError, SourceError
from lsprism.models.structure import build_meta_model, get_stored_shapes
from lsprism.models.weights import (
    INDEX,
    SINGLE,
    WeightFiles,
    find_stored_dtype,
    load_weights,
    map_tensor_files,
    release_weights,
)

CPU = torch.device("cpu")
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to modify."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def rewrite(folder: Path, change) -> None:
    """Let `change` edit the dictionary of tensors on disk."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def sharded(folder: Path) -> Path:
    """The same model in two files with an index."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def model_of(folder: Path) -> torch.nn.Module:
    return build_meta_model(folder, torch.bfloat16)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    model = model_of(folder)
    return WeightFiles(folder, model).read(get_stored_shapes(model))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["with", "without"])
def test_the_base_prefix_is_optional(folder, prefix):
    wanted = read_all(folder)

    def rename(tensors: dict) -> None:
        for name in [name for name in tensors if name.startswith("model.")]:
            tensors[prefix + name.removeprefix("model.")] = tensors.pop(name)

    rewrite(folder, rename)
    assert_same(read_all(folder), wanted)


def test_gpt2_on_the_hub_has_no_prefix_and_old_buffers(tmp_path):
    """openai-community/gpt2: "h.0.attn.c_attn.weight", and masks that newer versions compute."""
    config = AutoConfig.for_model("gpt2", vocab_size=len(WORDS), n_embd=32, n_head=4, n_layer=2, n_positions=64)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    tensors = {name.removeprefix("transformer."): t for name, t in model.state_dict().items() if "lm_head" not in name}
    tensors["h.0.attn.bias"], tensors["h.0.attn.masked_bias"] = torch.ones(1, 1, 64, 64), torch.tensor(-1e4)
    config.save_pretrained(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / SINGLE)
    assert_same(read_all(tmp_path), model.state_dict())


def test_rotary_frequencies_of_old_llamas_are_ignored(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert not any("inv_freq" in name for name in read_all(folder))


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_tensor_may_be_stored_under_either_name(tmp_path, kept):
    folder = make_model(tmp_path, tied=True)
    tensor = load_file(folder / SINGLE)["model.embed_tokens.weight"]

    def rename(tensors: dict) -> None:
        tensors[kept] = tensors.pop("model.embed_tokens.weight")

    rewrite(folder, rename)
    read = read_all(folder)
    assert torch.equal(read["model.embed_tokens.weight"], tensor) and "lm_head.weight" not in read


def test_experts_stored_one_by_one_are_read_as_from_pretrained_reads_them(tmp_path):
    """Mixtral stores w1, w2, w3 of each expert; the model has two 3-D tensors for all. With eleven experts, the order
    must be numerical, not alphabetical."""
    config = AutoConfig.for_model(
        "mixtral", vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=11,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    assert any(".experts.10.w1." in name for name in map_tensor_files(tmp_path))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    read = read_all(tmp_path)
    assert any(tensor.ndim == 3 for tensor in read.values())
    assert_same(read, loaded.state_dict())


# --- dtypes -----------------------------------------------------------------------------------------------------------


def test_tensors_that_an_architecture_keeps_in_float32_are_read_in_float32(tmp_path):
    config = AutoConfig.for_model(
        "deepseek_v3", vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2,
        n_group=1, topk_group=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        first_k_dense_replace=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    dtypes = {tensor.dtype for tensor in loaded.state_dict().values()}
    assert dtypes == {torch.float32, torch.bfloat16}
    assert_same(read_all(tmp_path), loaded.state_dict())


def test_the_stored_dtype_is_that_of_most_values(folder, tmp_path):
    rewrite(folder, lambda tensors: tensors.update({name: t.float() for name, t in tensors.items() if t.ndim == 1}))
    assert find_stored_dtype(folder) == torch.bfloat16
    assert find_stored_dtype(tmp_path) is None


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_shard_that_is_missing_is_named(folder):
    (sharded(folder) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"model-00002-of-00002\.safetensors is missing"):
        map_tensor_files(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(folder, share):
    file = sharded(folder) / "model-00001-of-00002.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DamagedError, match=r"model-00001-of-00002\.safetensors cannot be read"):
        map_tensor_files(folder)


def test_a_file_in_another_format_is_named(folder):
    (folder / SINGLE).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 4)
    with pytest.raises(DamagedError, match=r"model\.safetensors is only a Git LFS pointer"):
        map_tensor_files(folder)
    (folder / SINGLE).write_bytes(b"something else" * 9)
    with pytest.raises(DamagedError, match=r"model\.safetensors cannot be read"):
        map_tensor_files(folder)


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..\\x", ".."])
def test_an_index_must_not_point_outside_its_folder(folder, place):
    index = json.loads((sharded(folder) / INDEX).read_text())
    index["weight_map"][Q] = place
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DamagedError, match="not a file in its folder"):
        map_tensor_files(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON"), ("[]", r"contains \[\], not a JSON object"), ("{}", "weight_map is missing"),
        ('{"weight_map": []}', r"weight_map is \[\]"), ('{"weight_map": null}', "weight_map is null"),
        ('{"weight_map": {"a": 7}}', "weight_map.a is 7"), ('{"weight_map": {"a"', "is not valid JSON"),
    ],
)  # fmt: skip
def test_a_malformed_index_is_named(folder, text, said):
    (sharded(folder) / INDEX).write_text(text)
    with pytest.raises(DamagedError, match=rf"index\.json:? {said}"):
        map_tensor_files(folder)


def test_an_index_that_lists_the_wrong_file_is_an_error(folder):
    index = json.loads((sharded(folder) / INDEX).read_text())
    files = set(index["weight_map"].values())
    index["weight_map"][Q] = (files - {index["weight_map"][Q]}).pop()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DamagedError, match=f"lacks the tensor {Q}"):
        map_tensor_files(folder)


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="neither model.safetensors nor"):
        map_tensor_files(tmp_path)


def test_a_tensor_that_is_missing_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop(Q))
    with pytest.raises(DamagedError, match=f"no tensor for {Q}"):
        read_all(folder)


def test_a_tensor_of_another_shape_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({Q: torch.zeros(8, 32, dtype=torch.bfloat16)}))
    with pytest.raises(DamagedError, match=rf"{Q} in .* has shape \(8, 32\), not \(32, 32\)"):
        read_all(folder)


def test_a_bias_excluded_by_the_config_is_an_error(folder):
    bias = Q.replace("weight", "bias")
    rewrite(folder, lambda tensors: tensors.update({bias: torch.zeros(32, dtype=torch.bfloat16)}))
    with pytest.raises(DamagedError, match=bias):
        read_all(folder)


def test_tensors_for_other_tasks_are_ignored(folder):
    rewrite(folder, lambda tensors: tensors.update({"v_head.summary.weight": torch.zeros(1, 32)}))
    assert "v_head.summary.weight" not in read_all(folder)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_released_block_unmaps_the_file(folder):
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs Linux's /proc")
    mapped = lambda: str(folder) in maps.read_text()
    model = model_of(folder)
    weights = WeightFiles(folder, model)
    block = model.model.layers[1]
    assert not mapped()
    load_weights(block, "model.layers.1", weights, CPU)
    assert torch.equal(block.mlp.up_proj.weight, load_file(folder / SINGLE)["model.layers.1.mlp.up_proj.weight"])
    assert mapped() and all(parameter.is_meta for parameter in model.model.layers[0].parameters())
    release_weights(block)
    assert not mapped() and all(parameter.is_meta for parameter in model.parameters())


def test_a_released_block_keeps_computed_buffers():
    """Buffers computed when the model was built, such as GPT-J's position table."""
    block = torch.nn.Linear(2, 2)
    block.register_buffer("table", torch.arange(3.0), persistent=False)
    release_weights(block)
    assert block.weight.is_meta and block.bias.is_meta
    assert torch.equal(block.table, torch.arange(3.0))
