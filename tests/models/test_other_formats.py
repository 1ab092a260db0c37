"""Quantized models and adapters are recognized by config, by other files or by their tensors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lsprism
from lsprism.errors import SourceError

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "model")


def configure(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def packed(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Replace one layer's weight by packed tensors."""
    held = load_file(folder / "model.safetensors")
    held.pop(f"{Q}.weight")
    save_file(held | {f"{Q}.{leaf}": t.clone() for leaf, t in tensors.items()}, folder / "model.safetensors")
    return folder


def refused(folder: Path) -> SourceError:
    """The error, which must be the same for every command."""
    errors = []
    for verb in (lsprism.inspect, lambda path: lsprism.load(path, device="cpu")):
        with pytest.raises(SourceError) as caught:
            verb(folder)
        errors.append(caught.value)
    assert errors[0].message == errors[1].message and errors[0].hint
    assert errors[0].message.endswith(".") and "\n" not in errors[0].message
    return errors[0]


INTS = torch.zeros(32, 4, dtype=torch.int32)
BYTES = torch.zeros(32, 32, dtype=torch.uint8)
ONES = torch.ones(32, 1)
PACKED = {
    "GPTQ": {"qweight": INTS, "qzeros": INTS, "scales": ONES, "g_idx": INTS[0]},
    "GPTQ or AWQ": {"qweight": INTS, "qzeros": INTS, "scales": ONES},
    "MLX": {"weight": INTS, "scales": ONES, "biases": ONES},
    "bitsandbytes": {"weight": BYTES, "weight.absmax": ONES, "weight.quant_map": ONES},
    "bitsandbytes)": {"weight": BYTES.char(), "SCB": ONES},
    "compressed-tensors": {"weight_packed": INTS, "weight_scale": ONES, "weight_shape": torch.tensor([32, 32])},
    "compressed-tensors)": {"compressed": ONES, "bitmask": BYTES, "row_offsets": ONES},
    "ModelOpt": {"weight": BYTES, "weight_scale": ONES, "weight_scale_2": ONES[0]},
    "fp8": {"weight": torch.zeros(32, 32).to(torch.float8_e4m3fn), "weight_scale_inv": ONES[:1]},
    "fp8 or int8 with scales": {"weight": BYTES.char(), "weight_scale": ONES},
    "EXL2": {"q_weight": INTS, "q_scale": INTS, "q_groups": INTS},
    "HQQ": {"W_q": BYTES, "scale": ONES, "zero": ONES},
}


@pytest.mark.parametrize("maker", PACKED)
def test_quantized_weights_are_recognized_by_their_tensors(folder, maker):
    error = refused(packed(folder, PACKED[maker]))
    assert f"is already quantized ({maker}" in error.message


@pytest.mark.parametrize(
    ("changes", "maker"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization_config": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "modelopt"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}, "compressed-ten"),
    ],
)
def test_quantized_weights_are_recognized_by_the_config(folder, changes, maker):
    assert f"is already quantized ({maker}" in refused(configure(folder, **changes)).message


@pytest.mark.parametrize(
    ("file", "maker"),
    [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ"), ("hf_quant_config.json", "ModelOpt")],
)
def test_quantized_weights_are_recognized_by_another_file(folder, file, maker):
    (folder / file).write_text("{}")
    assert f"is already quantized ({maker}" in refused(folder).message


def test_the_hint_explains_how_transformers_makes_a_dense_copy(folder):
    hint = refused(configure(folder, quantization_config={"quant_method": "fp8"})).hint
    assert "FineGrainedFP8Config(dequantize=True)" in hint and "save_pretrained" in hint


def test_an_empty_quantization_entry_is_ignored(folder):
    assert lsprism.inspect(configure(folder, quantization_config=None, compression_config={})).sites


def test_integer_weights_are_an_error(folder):
    error = refused(packed(folder, {"weight": torch.zeros(32, 32, dtype=torch.int8)}))
    assert f"{Q}.weight in {folder / 'model.safetensors'} is stored as I8" in error.message


# --- adapters and other files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", ["config and weights", "config", "nothing"])
def test_an_adapter_is_recognized_with_any_other_files(folder, files):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "tiny/base", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({f"base_model.{Q}.lora_A.weight": torch.zeros(4, 32)}, folder / "adapter_model.safetensors")
    if files != "config and weights":
        (folder / "model.safetensors").unlink()
    if files == "nothing":
        (folder / "config.json").unlink()
    error = refused(folder)
    assert "adapter for tiny/base" in error.message and "merge_and_unload" in error.hint


def test_adapter_weights_in_the_model_are_recognized(folder):
    error = refused(packed(folder, {"base_layer.weight": torch.zeros(32, 32), "lora_A.default.weight": ONES}))
    assert "adapter weights" in error.message and "merge_and_unload" in error.hint


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model-Q4_K.gguf", "only in GGUF format (model-Q4_K.gguf)"),
        ("pytorch_model.bin", "only in pickle format (pytorch_model.bin)"),
    ],
)
def test_weights_in_another_format_are_recognized(folder, file, said):
    (folder / "model.safetensors").rename(folder / file)
    assert said in refused(folder).message


def test_a_distributed_checkpoint_is_recognized(folder):
    (folder / "model.safetensors").rename(folder / "shard-00000-model-00001-of-00001.safetensors")
    with pytest.raises(SourceError, match="distributed checkpoint"):
        lsprism.load(folder, device="cpu")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "generation_config.json"])
def test_a_git_lfs_pointer_is_recognized(folder, file):
    (folder / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n")
    error = refused(folder)
    assert f"{folder / file} is only a Git LFS pointer" in error.message and "git lfs pull" in error.hint


def test_transformers_weights_in_the_config_is_an_error(folder):
    assert "own.safetensors" in refused(configure(folder, transformers_weights="own.safetensors")).message
