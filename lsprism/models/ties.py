"""Tied tensors: what config.json ties is one tensor only if the stored weights agree.

If both names are stored with different values, `from_pretrained` does not tie them, whatever config.json says. The same
is done here (see PreTrainedModel.tie_weights).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from lsprism.models.module_utils import set_tensor
from lsprism.models.origins import Origin, Origins, find_origins
from lsprism.models.tensor_files import TensorHeader, open_tensors, read_headers

PART = 2**22  # values compared at once


def get_tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Name of a tied tensor -> name under which it is stored."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def find_untied_names(model: PreTrainedModel) -> set[str]:
    """Tensors that config.json ties, but whose stored values differ."""
    return model.get_expanded_tied_weights_keys(all_submodels=True).keys() - get_tied_names(model).keys()


def remove_ties(config: dict[str, Any]) -> dict[str, Any]:
    """The config with embeddings and LM head untied, in every part that transformers may read."""
    changed = {**config, "tie_word_embeddings": False}
    if isinstance(config.get("text_config"), dict):
        changed["text_config"] = {**config["text_config"], "tie_word_embeddings": False}
    return changed


def untie(model: PreTrainedModel, folder: Path) -> None:
    """Untie the tensors of a skeleton that config.json ties and that differ in the files of `folder`."""
    if not get_tied_names(model):
        return
    headers = read_headers(folder)
    for name in find_differing(model, folder, find_origins(model, folder, headers), headers):
        model.all_tied_weights_keys.pop(name)
        set_tensor(model, name, torch.empty_like(model.state_dict()[name], device="meta"))


def find_differing(
    model: PreTrainedModel, folder: Path, origins: Origins, headers: dict[str, TensorHeader]
) -> list[str]:
    """Names of tied tensors whose stored values differ."""
    found, made_of = [], dict(origins.of)
    for name, kept in get_tied_names(model).items():
        mine, other = made_of.get(name), made_of.get(kept)
        if mine and other and mine is not other and not _is_equal(model, folder, mine, other, headers):
            found.append(name)
        elif mine and not other:  # stored under the other name, which now stands for both
            made_of[kept] = mine
    return found


def _is_equal(
    model: PreTrainedModel, folder: Path, one: Origin, other: Origin, headers: dict[str, TensorHeader]
) -> bool:
    """Whether two stored tensors have equal values in the model's dtype; read in parts.

    Converted tensors never count as equal: then both are kept, which needs more space but changes no value.
    """
    keys = [origin.keys[0][0] for origin in (one, other)]
    state = model.state_dict()
    dtypes = [state[origin.name].dtype for origin in (one, other)]
    first, second = (headers[key] for key in keys)
    if one.converter or other.converter or len(first.shape) == 0 or first.shape != second.shape:
        return False
    step = max(1, PART * first.shape[0] // max(1, torch.Size(first.shape).numel()))
    with open_tensors(folder / first.file) as left, open_tensors(folder / second.file) as right:
        for start in range(0, first.shape[0], step):
            parts = [_read_rows(file, key, start, start + step) for file, key in zip((left, right), keys, strict=True)]
            if not torch.equal(parts[0].to(dtypes[0]), parts[1].to(dtypes[1])):
                return False
    return True


def _read_rows(file: safe_open, key: str, start: int, stop: int) -> Tensor:
    return file.get_slice(key)[start:stop]
