"""RoPE scaling of GGUF files, which transformers 5.23 does not read: linear and YaRN scaling from the file's keys,
Llama 3 scaling from the tensor rope_freqs, by which llama.cpp divides the frequencies. Any other is an error."""

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
# Name in the file, below ARCHITECTURE.rope.scaling -> name in rope_parameters; None: it has no effect.
LINEAR = {"factor": "factor", "finetuned": None, "original_context_length": None}
YARN = LINEAR | {
    "original_context_length": "original_max_position_embeddings", "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}  # fmt: skip
NEUTRAL = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "alpha": 1.0}  # no effect either
LLAMA3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
INSTEAD = "Use the model's safetensors instead."


def apply_rope_scaling(config: PreTrainedConfig, file: Path) -> None:
    """Write the file's RoPE scaling to the config of the model. Raises SourceError for a scaling that the config cannot
    express."""
    reader = GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    start = f"{architecture}.rope.scaling."
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith(start)}
    keys = {name.removeprefix(start): value for name, value in fields.items()}
    if (old := reader.fields.get(f"{architecture}.rope.scale_linear")) is not None:
        keys |= {"type": "linear", "factor": old.contents()}
    tensors = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name.startswith("rope_f")}
    by_keys = _read_keys(keys, file)
    by_tensors = _read_tensors({name: torch.tensor(data).float() for name, data in tensors.items()}, config, file)
    if by_keys and by_tensors:
        raise SourceError(f"{file} defines RoPE scaling twice, by its keys and by {min(tensors)}.", INSTEAD)
    if by_keys or by_tensors:
        _set(config, by_keys or by_tensors, file)


def _read_keys(keys: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """rope_parameters from the keys below rope.scaling; empty without scaling."""
    kind, factor = keys.get("type", "linear" if "factor" in keys else "none"), float(keys.get("factor", 1.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {}
    names = {"linear": LINEAR, "yarn": YARN}.get(kind)
    if names is None:
        raise SourceError(f"{file} uses RoPE scaling {kind}, which is not supported.", INSTEAD)
    for name, value in keys.items():
        if name not in names and name != "type" and value != NEUTRAL.get(name):
            raise SourceError(f"{file} uses RoPE scaling {kind} with {name} {value}, which is not supported.", INSTEAD)
    return {"rope_type": kind} | {own: value for name, value in keys.items() if (own := names.get(name))}


def _read_tensors(held: Mapping[str, Tensor], config: PreTrainedConfig, file: Path) -> dict[str, Any]:
    """rope_parameters from the tensors by which the frequencies are divided; empty if all values are 1."""
    if any(name in held for name in LONG_AND_SHORT):
        raise SourceError(f"{file} uses RoPE scaling by {min(held)} (LongRoPE), which is not supported.", INSTEAD)
    divisors = held.get(FREQUENCIES)
    if divisors is None or torch.all(divisors == 1):
        return {}
    scaling = LLAMA3 | {"factor": float(divisors.max())}
    theta = (config.rope_parameters or {}).get("rope_theta")
    if theta is None or not torch.allclose(divisors, _compute_llama3(scaling, theta, len(divisors)), rtol=1e-3):
        raise SourceError(f"{file} has a tensor {FREQUENCIES} that does not match Llama 3 scaling.", INSTEAD)
    return scaling


def _compute_llama3(scaling: Mapping[str, Any], theta: float, count: int) -> Tensor:
    """Divisors of `count` frequencies in Llama 3 scaling, [count]: 1 for short wavelengths, the factor for long ones,
    interpolated in between."""
    length = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi * theta ** (torch.arange(count) / count)
    smooth = ((length / waves - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _set(config: PreTrainedConfig, scaling: dict[str, Any], file: Path) -> None:
    """Set the scaling, for full attention only where layers differ: sliding windows never exceed the trained length."""
    known = config.rope_parameters if isinstance(getattr(config, "rope_parameters", None), dict) else {}
    part = known.get("full_attention", known)
    if "rope_theta" not in part:
        raise SourceError(f"{file} defines RoPE scaling, but {config.model_type} has no RoPE here.", INSTEAD)
    if part.get("rope_type", "default") != "default":
        if any(part.get(name) != value for name, value in scaling.items()):
            raise SourceError(f"{file} defines another RoPE scaling than {config.model_type} does.", INSTEAD)
        return
    part |= scaling
