"""Maps each tensor of a model to the stored tensors it is built from, as `from_pretrained` does.

A checkpoint may name and split its tensors differently from the model: without the base prefix (GPT-2 on the Hub), or
expert by expert where the model has one tensor for all. transformers has conversion rules for each architecture; they
are applied here in the order of core_model_loading.convert_and_load_state_dict_in_model. Everything is checked on the
meta device from the headers alone: what passes here loads, and an error names what does not.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lsprism.errors import DamagedError, SourceError
from lsprism.models.tensor_files import TensorHeader
from lsprism.models.transformers_private import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    get_ignored_keys,
    get_model_conversion_mapping,
    rename_source_key,
)

MISFIT = "The weights do not match config.json; download the model again."


@dataclass
class Origin:
    """The stored tensors from which one tensor of the model, or several converted together, are built."""

    name: str  # tensor in the model, or the first of several; its dtype is used for the conversion
    keys: list[tuple[str, str]] = field(default_factory=list)  # key in the checkpoint, pattern that matched it
    converter: WeightConverter | None = None  # None: the first tensor is used unchanged

    @property
    def used(self) -> list[tuple[str, str]]:
        return self.keys if self.converter else self.keys[:1]

    def make(self, model: PreTrainedModel, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert stored tensors (by key, already in the model's dtype) to tensors by the model's names.

        Raises whatever the conversion raises for tensors that do not fit together.
        """
        if self.converter is None:
            return {self.name: stored[self.keys[0][0]]}
        converter = deepcopy(self.converter)  # a converter stores the tensors it is given
        for key, pattern in self.keys:
            converter.add_tensor(self.name, key, pattern, stored[key])  # type: ignore[arg-type]  # it takes tensors too
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


@dataclass(frozen=True)
class Origins:
    of: dict[str, Origin]  # tensor of the model -> the stored tensors it is built from
    unused: dict[str, str]  # stored tensors without a counterpart: the name they would have in the model -> key


def find_origins(model: PreTrainedModel, folder: Path, headers: Mapping[str, TensorHeader]) -> Origins:
    """Apply transformers' own rules. Raises DamagedError if the tensors of a conversion do not fit together."""
    state, prefix = model.state_dict(), model.base_model_prefix
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    first: dict[str, Origin] = {}
    unused: dict[str, str] = {}
    for key in sorted(headers, key=dot_natural_key):  # experts are stacked in this order
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name in state:
            converter = by_pattern[pattern] if pattern is not None else None
            first.setdefault(name, Origin(name, converter=converter)).keys.append((key, pattern or key))
        else:
            unused[name] = key
    return Origins(_map_by_target(model, folder, headers, first.values()), unused)


def _map_by_target(
    model: PreTrainedModel, folder: Path, headers: Mapping[str, TensorHeader], origins: Iterable[Origin]
) -> dict[str, Origin]:
    """Map every tensor that the origins produce to its origin, by a conversion on the meta device."""
    found = {}
    for origin in origins:
        if origin.converter is None:
            found[origin.name] = origin
            continue
        key = origin.keys[0][0]
        shapes = {key: torch.empty(headers[key].shape, device="meta") for key, _ in origin.keys}
        try:
            found |= dict.fromkeys(origin.make(model, shapes), origin)
        except Exception as error:  # transformers' conversions raise nothing narrower
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DamagedError(
                f"{origin.name} cannot be built from {key} and related tensors in {folder / headers[key].file}:"
                f" {reason}.",
                MISFIT,
            ) from None
    return found


def check_unexpected_tensors(
    folder: Path, model: PreTrainedModel, unused: Mapping[str, str], file_of: Mapping[str, str]
) -> None:
    """Raise DamagedError for an unused stored tensor that belongs to a layer of the model, such as a bias that
    config.json excludes, and SourceError for one that belongs to a block beyond the number in config.json.

    `unused`: name in the model -> key. All others are ignored: heads for other tasks, buffers of older versions, and
    tensors that the architecture is known to skip.
    """
    layers = {name for name, part in model.named_modules() if part._parameters and not any(part.children())}
    ignored, prefix = [re.compile(pattern) for pattern in _list_ignored(model)], f"{model.base_model_prefix}."
    lists = _map_entries(model, prefix)
    for name, key in sorted(unused.items()):
        if any(pattern.search(name) for pattern in ignored):
            continue
        place = folder / file_of[key] if key in file_of else folder
        owner = name.rpartition(".")[0]
        if owner in layers or prefix + owner in layers:
            raise DamagedError(f"Unexpected tensor {key} in {place}.", MISFIT)
        for path, (pattern, count) in lists.items():
            number = pattern.match(name)
            if number and int(number[2]) >= count + _count_predictors(model):
                raise SourceError(
                    f"{place} contains {key}, but according to config.json {path} has only {count} entries.",
                    "Correct the number of layers in config.json, or save the model again with save_pretrained().",
                )


def _map_entries(model: PreTrainedModel, prefix: str) -> dict[str, tuple[re.Pattern[str], int]]:
    """Path of each module list -> pattern of its tensors' names, with or without the prefix, and its length."""
    lists = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}
    looks = {name: rf"({re.escape(prefix)})?{re.escape(name.removeprefix(prefix))}\.(\d+)\." for name in lists}
    return {name: (re.compile(looks[name]), len(part)) for name, part in lists.items()}


def _count_predictors(model: PreTrainedModel) -> int:
    """Number of multi-token prediction blocks stored after the decoder's blocks; transformers skips them."""
    return getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0


def _list_ignored(model: PreTrainedModel) -> set[str]:
    """Patterns of tensors that transformers skips without a warning (see _adjust_missing_and_unexpected_keys)."""
    patterns = get_ignored_keys(model)
    return patterns | {r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}
