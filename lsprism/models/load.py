"""From a resolved source to a model in memory; the one place that picks device and dtype.

Artifacts load through the same door: whoever calls must have imported `lsprism.hf`, which registers their format.
"""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import DamagedError, SpecError
from lsprism.models.anatomy import model_dtype, tied_names
from lsprism.reports import ModelSource


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    device: torch.device
    dtype: torch.dtype


def pick_device(name: str) -> torch.device:
    """auto: the first CUDA device if there is one, else the CPU. A device that is not there is a SpecError."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(
            f"--device {name}: this PyTorch sees {torch.cuda.device_count()} CUDA devices.",
            "Choose --device auto or cpu, or install a CUDA build of PyTorch.",
        )
    return device


def pick_dtype(name: str, source: ModelSource) -> torch.dtype:
    """auto: the dtype the model was published in."""
    return model_dtype(source.folder) if name == "auto" else getattr(torch, name)


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)


def load(source: ModelSource, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a model whole. Missing, unexpected or misshapen tensors are a DamagedError, never a warning."""
    place, kind = pick_device(device), pick_dtype(dtype, source)
    model, info = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=kind, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    _refuse_wrong_keys(source, model, info)
    return LoadedModel(model.to(place).eval().requires_grad_(False), load_tokenizer(source), source, place, kind)


def _refuse_wrong_keys(source: ModelSource, model: PreTrainedModel, info: dict) -> None:
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = {key[0] if isinstance(key, tuple) else key for key in info[what]} - set(tied_names(model))
        if names:
            raise DamagedError(
                f"{source.folder}: {len(names)} {what.replace('_', ' ')}, the first is {min(names)}.",
                "The weights do not fit config.json; download or compress the model again.",
            )
