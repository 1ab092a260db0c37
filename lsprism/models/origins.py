"""Which stored tensors each tensor of a model is made of, as `from_pretrained` would make it.

A checkpoint may name and cut its tensors otherwise than the model does: without the base prefix (GPT-2 on the hub), or
expert by expert where the model holds all in one. transformers has rules for each family; they are asked here, in the
order in which core_model_loading.convert_and_load_state_dict_in_model asks them. Everything is checked on the meta
device, by headers alone: what fits here loads, and what does not is named.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from lsprism.errors import DamagedError, SourceError
from lsprism.models.stored import Header

MISFIT = "The weights do not fit config.json; download the model again."


@dataclass
class Origin:
    """The stored tensors that one tensor of the model is made of, or several that are converted together."""

    name: str  # of the tensor in the model, or the first of several; its dtype is that of the conversion
    keys: list[tuple[str, str]] = field(default_factory=list)  # key in the checkpoint, pattern that it matched
    converter: WeightConverter | None = None  # None: the first tensor as it is

    @property
    def used(self) -> list[tuple[str, str]]:
        return self.keys if self.converter else self.keys[:1]

    def make(self, model: PreTrainedModel, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the model's names, of those in the files by their keys, which have the model's dtype already.

        Raises whatever the conversion raises on tensors that do not go together.
        """
        if self.converter is None:
            return {self.name: stored[self.keys[0][0]]}
        converter = deepcopy(self.converter)  # it collects what it converts
        for key, pattern in self.keys:
            converter.add_tensor(self.name, key, pattern, stored[key])  # type: ignore[arg-type]  # it takes tensors too
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


@dataclass(frozen=True)
class Origins:
    of: dict[str, Origin]  # tensor of the model -> what it is made of
    unused: dict[str, str]  # name that a stored tensor would have in the model, which has none such -> its key


def find_origins(model: PreTrainedModel, folder: Path, headers: Mapping[str, Header]) -> Origins:
    """By transformers' own rules. DamagedError where the tensors of a conversion do not go together."""
    state, prefix = model.state_dict(), model.base_model_prefix
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    first: dict[str, Origin] = {}
    unused: dict[str, str] = {}
    for key in sorted(headers, key=dot_natural_key):  # the order in which experts are stacked
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name in state:
            converter = by_pattern[pattern] if pattern is not None else None
            first.setdefault(name, Origin(name, converter=converter)).keys.append((key, pattern or key))
        else:
            unused[name] = key
    return Origins(_by_target(model, folder, headers, first.values()), unused)


def _by_target(
    model: PreTrainedModel, folder: Path, headers: Mapping[str, Header], origins: Iterable[Origin]
) -> dict[str, Origin]:
    """Every tensor that comes out of the origins -> its origin, by a conversion on the meta device."""
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
                f"{origin.name} cannot be made of {key} and its like in {folder / headers[key].file}: {reason}.", MISFIT
            ) from None
    return found


def refuse_extras(folder: Path, model: PreTrainedModel, unused: Mapping[str, str], file_of: Mapping[str, str]) -> None:
    """Refuse a stored tensor that the model has no use for if it belongs to one of its layers, as a bias that
    config.json denies (DamagedError), or to a block beyond those that config.json counts (SourceError).

    `unused`: name in the model -> key. Others are harmless: heads for other tasks, buffers of older versions, what the
    family is known to leave out.
    """
    layers = {name for name, part in model.named_modules() if part._parameters and not any(part.children())}
    ignored, prefix = [re.compile(pattern) for pattern in _ignored(model)], f"{model.base_model_prefix}."
    lists = _entries(model, prefix)
    for name, key in sorted(unused.items()):
        if any(pattern.search(name) for pattern in ignored):
            continue
        place = folder / file_of[key] if key in file_of else folder
        owner = name.rpartition(".")[0]
        if owner in layers or prefix + owner in layers:
            raise DamagedError(f"{place} holds {key}, of which config.json knows nothing.", MISFIT)
        for path, (pattern, count) in lists.items():
            number = pattern.match(name)
            if number and int(number[2]) >= count + _predictors(model):
                raise SourceError(
                    f"{place} holds {key}, but by config.json {path} has only {count} entries.",
                    "Correct the number of layers in config.json, or save the model again with save_pretrained().",
                )


def _entries(model: PreTrainedModel, prefix: str) -> dict[str, tuple[re.Pattern[str], int]]:
    """Path of each list of modules -> how the names of its tensors begin, with or without the prefix; its length."""
    lists = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}
    looks = {name: rf"({re.escape(prefix)})?{re.escape(name.removeprefix(prefix))}\.(\d+)\." for name in lists}
    return {name: (re.compile(looks[name]), len(part)) for name, part in lists.items()}


def _predictors(model: PreTrainedModel) -> int:
    """Blocks that follow those of the decoder in the files and predict further tokens; transformers leaves them out."""
    return getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0


def _ignored(model: PreTrainedModel) -> set[str]:
    """Patterns of what transformers leaves out without a warning (see _adjust_missing_and_unexpected_keys)."""
    patterns = set(model._keys_to_ignore_on_load_unexpected or ())
    return patterns | {r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}
