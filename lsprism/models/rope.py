"""What a GGUF file says of rotary frequencies, which transformers 5.23 does not read: linear and YaRN scaling from its
keys, Llama 3's from the tensor rope_freqs, by which llama.cpp divides the frequencies. Anything else is refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor
from transformers import PreTrainedConfig

from lsprism.errors import SourceError

FREQUENCIES = "rope_freqs.weight"
LONG_AND_SHORT = ("rope_factors_long.weight", "rope_factors_short.weight")  # LongRoPE
# Name in the file, below ARCHITECTURE.rope.scaling -> name in rope_parameters; None: it changes nothing.
LINEAR = {"factor": "factor", "finetuned": None, "original_context_length": None}
YARN = LINEAR | {
    "original_context_length": "original_max_position_embeddings", "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}  # fmt: skip
NEUTRAL = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "alpha": 1.0}  # change nothing either
LLAMA3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
INSTEAD = "Give the model's safetensors instead."


def adopt_rope(config: PreTrainedConfig, file: Path) -> None:
    """Put the file's scaling into the config of the model that was unpacked from it. SourceError where it has one that
    the config cannot say."""
    reader = GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    start = f"{architecture}.rope.scaling."
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith(start)}
    keys = {name.removeprefix(start): value for name, value in fields.items()}
    if (old := reader.fields.get(f"{architecture}.rope.scale_linear")) is not None:
        keys |= {"type": "linear", "factor": old.contents()}
    tensors = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name.startswith("rope_f")}
    by_keys = _of_keys(keys, file)
    by_tensors = _of_tensors({name: torch.tensor(data).float() for name, data in tensors.items()}, config, file)
    if by_keys and by_tensors:
        raise SourceError(f"{file} scales its rotary frequencies twice, by its keys and by {min(tensors)}.", INSTEAD)
    if by_keys or by_tensors:
        _set(config, by_keys or by_tensors, file)


def _of_keys(keys: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """rope_parameters by the keys below rope.scaling; empty where nothing is scaled."""
    kind, factor = keys.get("type", "linear" if "factor" in keys else "none"), float(keys.get("factor", 1.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {}
    names = {"linear": LINEAR, "yarn": YARN}.get(kind)
    if names is None:
        raise SourceError(f"{file} scales its rotary frequencies by {kind}.", INSTEAD)
    for name, value in keys.items():
        if name not in names and name != "type" and value != NEUTRAL.get(name):
            raise SourceError(f"{file} scales its rotary frequencies by {kind} with {name} {value}.", INSTEAD)
    return {"rope_type": kind} | {own: value for name, value in keys.items() if (own := names.get(name))}


def _of_tensors(held: Mapping[str, Tensor], config: PreTrainedConfig, file: Path) -> dict[str, Any]:
    """rope_parameters by the tensors that the frequencies are divided by; empty where all are 1."""
    if any(name in held for name in LONG_AND_SHORT):
        raise SourceError(f"{file} scales its rotary frequencies by {min(held)} (LongRoPE).", INSTEAD)
    divisors = held.get(FREQUENCIES)
    if divisors is None or torch.all(divisors == 1):
        return {}
    scaling = LLAMA3 | {"factor": float(divisors.max())}
    theta = (config.rope_parameters or {}).get("rope_theta")
    if theta is None or not torch.allclose(divisors, _llama3(scaling, theta, len(divisors)), rtol=1e-3):
        raise SourceError(f"{file} divides its rotary frequencies by {FREQUENCIES}, not as Llama 3 does.", INSTEAD)
    return scaling


def _llama3(scaling: Mapping[str, Any], theta: float, count: int) -> Tensor:
    """By what Llama 3 divides each of `count` frequencies: 1 for short waves, the factor for long ones, and a value
    between for those between."""
    length = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi * theta ** (torch.arange(count) / count)
    smooth = ((length / waves - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _set(config: PreTrainedConfig, scaling: dict[str, Any], file: Path) -> None:
    """In the part for full attention where layers differ: windows are never longer than the model has learned."""
    known = config.rope_parameters if isinstance(getattr(config, "rope_parameters", None), dict) else {}
    part = known.get("full_attention", known)
    if "rope_theta" not in part:
        raise SourceError(f"{file} scales rotary frequencies, which {config.model_type} has none of here.", INSTEAD)
    if part.get("rope_type", "default") != "default":
        if any(part.get(name) != value for name, value in scaling.items()):
            raise SourceError(f"{file} scales its rotary frequencies otherwise than {config.model_type} does.", INSTEAD)
        return
    part |= scaling
