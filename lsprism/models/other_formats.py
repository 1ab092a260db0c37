"""Folders that do not hold a dense model: quantized by other tools, or an adapter. The error says which."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lsprism.errors import DamagedError, SourceError
from lsprism.json_files import read_object
from lsprism.models.tensor_files import INDEX, SINGLE, TensorHeader, read_headers

QUANT_METHOD = "ls_prism"  # the format of artifacts, as config.json names it to transformers
ADAPTER = "adapter_config.json"
MERGE = "Merge it into its base model (peft's merge_and_unload) and give the merged folder."
# Files that identify the format where config.json does not.
FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ", "hf_quant_config.json": "ModelOpt"}
# Suffixes of tensor names that only packed weights have, the most specific first.
LEAVES = {
    "SCB": "bitsandbytes", "absmax": "bitsandbytes", "quant_map": "bitsandbytes",
    "weight_packed": "compressed-tensors", "bitmask": "compressed-tensors",
    "weight_scale_2": "ModelOpt", "g_idx": "GPTQ", "qzeros": "GPTQ or AWQ", "qweight": "GPTQ or AWQ",
    "weight_scale_inv": "fp8", "weight_scale": "fp8 or int8 with scales", "q_weight": "EXL2", "trellis": "EXL3",
    "W_q": "HQQ",
}  # fmt: skip
DENSE = "Choose its unquantized base model."
COPY = (
    "Make a dense copy with transformers{}, AutoModelForCausalLM.from_pretrained(ID, quantization_config={})"
    ".save_pretrained(FOLDER), and copy the tokenizer's files into it."
)
# How transformers makes a lossless dense copy, where it can, and the package it needs.
COPIES = {
    "fp8": ("", "FineGrainedFP8Config(dequantize=True)"),
    "mxfp4": ("", "Mxfp4Config(dequantize=True)"),
    "compressed-tensors": (" and compressed-tensors", "CompressedTensorsConfig(dequantize=True)"),
}


def get_quant_method(config: dict[str, Any]) -> str:
    """The quantization format according to config.json or its text part; empty if the model is not quantized."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if isinstance(found, dict) and found.get("quant_method"):
            return str(found["quant_method"])
        if part.get("quantization") or (isinstance(found, dict) and {"group_size", "bits"} <= found.keys()):
            return "MLX"
        if found:  # old bitsandbytes configs have no quant_method
            return "bitsandbytes"
    return ""


def check_dense(folder: Path, name: str, config: dict[str, Any]) -> None:
    """Raise SourceError for quantized weights, recognized by config.json, by other files or by tensor names."""
    method = get_quant_method(config)
    if method == QUANT_METHOD:
        return
    method = method or next((maker for file, maker in FILES.items() if (folder / file).is_file()), "")
    headers: dict[str, TensorHeader] = {}
    if not method and ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        with suppress(DamagedError, SourceError):  # reported when the weights are read
            headers = read_headers(folder)
    if any(".lora_A." in key or ".base_layer." in key for key in headers):
        raise SourceError(f"{name} holds adapter weights in addition to the model's.", MERGE)
    method = method or infer_quant_method(headers)
    if method:
        raise SourceError(f"{name} is already quantized ({method}).", get_remedy(method))


def infer_quant_method(headers: dict[str, TensorHeader]) -> str:
    """The quantization format according to the names and dtypes of the tensors; empty if there is none."""
    leaves = {key.rpartition(".")[2] for key in headers}
    if any(".quant_state.bitsandbytes__" in key for key in headers):
        return "bitsandbytes"
    found = next((maker for leaf, maker in LEAVES.items() if leaf in leaves), "")
    if found or not {"scales", "biases"} <= leaves:
        return found
    packed = (key for key, header in headers.items() if key.endswith(".weight") and not header.is_float)
    return "MLX" if any(f"{key.removesuffix('weight')}biases" in headers for key in packed) else ""


def get_remedy(method: str) -> str:
    return COPY.format(*COPIES[method]) if method in COPIES else DENSE


def check_not_adapter(folder: Path) -> None:
    """Raise SourceError if the folder holds an adapter, which transformers would apply to any weights next to it."""
    if not (folder / ADAPTER).is_file():
        return
    base = read_object(folder / ADAPTER).get("base_model_name_or_path")
    of = f" for {base}" if isinstance(base, str) and base else ""
    raise SourceError(f"{folder} holds an adapter{of}, not a complete model.", MERGE)


def has_other_weights(listed: Iterable[str]) -> bool:
    """Whether the files include weights, but none in safetensors format."""
    files = list(listed)
    other = any(file.endswith(".gguf") or file.startswith("pytorch_model") for file in files)
    return other and not any(file.endswith(".safetensors") for file in files)


def check_weight_format(name: str, listed: Iterable[str], missing: str) -> None:
    """Raise SourceError for a model without the file `missing`, and say what it has instead; `listed`: all files."""
    files = sorted(listed)
    of = lambda *ends: next((file for file in files if file.endswith(ends)), "")
    packed, pickled, other = of(".gguf"), of(".bin", ".pt", ".pth", ".ckpt"), of(".safetensors")
    if packed and not other:
        raise SourceError(f"{name} has weights only in GGUF format ({packed}).", "Give the path of one .gguf file.")
    if pickled and not other:
        raise SourceError(
            f"{name} has weights only in pickle format ({pickled}), which can run code when it is loaded.",
            "Convert it to safetensors first: https://huggingface.co/spaces/safetensors/convert",
        )
    if not other:
        raise SourceError(f"{name} has no *.safetensors files.", "Give a folder or Hub id with weights.")
    if other.startswith("shard-"):
        raise SourceError(f"{name} is a distributed checkpoint ({other}).", "Save it with save_pretrained().")
    raise SourceError(f"{name} lacks the file {missing}.", "Copy or download the model again.")
