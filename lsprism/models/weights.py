"""The tensors of a folder of safetensors, memory-mapped, opened and closed group by group. Never pickle.

A checkpoint may name and cut its tensors otherwise than the model does: without the base prefix (GPT-2 on the hub), or
expert by expert where the model holds all in one. transformers has rules for each family; they are asked here, so that
what is compressed is what `from_pretrained` would load.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from lsprism.errors import DamagedError, SourceError
from lsprism.models.anatomy import stored_shapes, tied_names
from lsprism.models.surgery import set_tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # in the order in which transformers looks
REMEDY = "Download, copy or convert the model again."
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass
class _Origin:
    """Which tensors of the checkpoint one tensor of the model is made of, and how."""

    keys: list[tuple[str, str]] = field(default_factory=list)  # key in the checkpoint, pattern that it matched
    converter: WeightConverter | None = None  # None: the one tensor as it is


class WeightFiles:
    """Reads tensors by the names that `model` (a skeleton will do) has for them, in the dtypes that it has for them."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        self.folder, self.model = folder, model
        self.file_of = tensor_files(folder)
        self.kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
        self.origins = _origins(model, self.file_of)
        for name in stored_shapes(model):  # now, not when its block's turn comes
            self._origin(name)
        used = {key for origin in self.origins.values() for key, _ in origin.keys}
        refuse_extras(folder, model, self.file_of.keys() - used)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by the model's names; views of the file while they live, so drop them."""
        names = list(names)
        origins = {name: self._origin(name) for name in names}
        stored = self._stored({key for origin in origins.values() for key, _ in origin.keys})
        made: dict[str, Tensor] = {}
        for name, origin in origins.items():
            if name not in made:
                made |= self._make(name, origin, stored)
            shape, dtype = self.kinds[name]
            if made[name].shape != shape:
                raise DamagedError(
                    f"{name} in {self.folder} has shape {tuple(made[name].shape)}, not {tuple(shape)}.",
                    "The weights do not fit config.json; download the model again.",
                )
            made[name] = made[name].to(dtype)
        return {name: made[name] for name in names}

    def _origin(self, name: str) -> _Origin:
        if name not in self.origins:
            raise DamagedError(
                f"The weights in {self.folder} hold no tensor for {name}.",
                "They do not fit config.json; download the model again, or save it anew with transformers.",
            )
        return self.origins[name]

    def _make(self, name: str, origin: _Origin, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the model, `name` among them, from those of the checkpoint."""
        if origin.converter is None:
            return {name: stored[origin.keys[0][0]]}
        converter = deepcopy(origin.converter)  # it collects what it converts
        for key, pattern in origin.keys:
            converter.add_tensor(name, key, pattern, stored[key])
        made = converter.convert(name, model=self.model, config=self.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}

    def _stored(self, keys: set[str]) -> dict[str, Tensor]:
        """Tensors by the checkpoint's keys, each file opened once."""
        found = {}
        for file in sorted({self.file_of[key] for key in keys}):
            with _opened(self.folder / file) as opened:
                found |= {key: opened.get_tensor(key) for key in keys if self.file_of[key] == file}
        return found


def tensor_files(folder: Path) -> dict[str, str]:
    """Key of each tensor -> name of the file that holds it. Every file is looked at: one that is missing, cut short or
    not what the index says is a DamagedError that names it."""
    if (folder / SINGLE).is_file():
        return dict.fromkeys(_keys(folder / SINGLE), SINGLE)
    if not (folder / INDEX).is_file():
        raise SourceError(
            f"{folder} holds neither {SINGLE} nor {INDEX}.", "Save the model with transformers' save_pretrained()."
        )
    listed = _read_index(folder / INDEX)
    held = {file: set(_keys(folder / file)) for file in sorted(set(listed.values()))}
    for key, file in listed.items():
        if key not in held[file]:
            raise DamagedError(f"{folder / file} does not hold {key}, which {INDEX} says it holds.", REMEDY)
    return listed


def refuse_extras(folder: Path, model: PreTrainedModel, keys: Iterable[str]) -> None:
    """DamagedError if one of `keys`, which the model has no use for, is a further tensor of one of its layers: a bias,
    say, that config.json denies. Others are harmless: heads for other tasks, buffers of older versions."""
    layers = {name for name, part in model.named_modules() if part._parameters and not any(part.children())}
    for key in sorted(keys):
        owner = key.rpartition(".")[0]
        if owner in layers or f"{model.base_model_prefix}.{owner}" in layers:
            raise DamagedError(
                f"The weights in {folder} hold {key}, of which config.json knows nothing.",
                "They do not fit config.json; download the model again.",
            )


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The floating dtype that most numbers on disk have; None where there are no weights (yet)."""
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        return None
    numbers: Counter[torch.dtype] = Counter()
    for file in sorted(set(tensor_files(folder).values())):
        with _opened(folder / file) as opened:
            for part in map(opened.get_slice, opened.keys()):
                if part.get_dtype() in _DTYPES:
                    numbers[_DTYPES[part.get_dtype()]] += math.prod(part.get_shape())
    return max(numbers, key=numbers.__getitem__, default=None)


def fill(module: nn.Module, prefix: str, weights: WeightFiles, device: torch.device) -> None:
    """Give the module at path `prefix` its weights, in place of those on meta; all it holds is then on `device`."""
    names = list(module.state_dict())
    tensors = weights.read(f"{prefix}.{name}" for name in names)
    for name in names:
        set_tensor(module, name, tensors[f"{prefix}.{name}"].to(device))
    move_computed(module, device)


def release(module: nn.Module) -> None:
    """Take the weights away again: what can be read goes to meta, what was computed when the model was built stays."""
    for name, tensor in module.state_dict().items():
        set_tensor(module, name, torch.empty_like(tensor, device="meta"))
    move_computed(module, torch.device("cpu"))


def move_computed(module: nn.Module, device: torch.device) -> None:
    """Move the buffers that stand in no file, such as rotary frequencies; a model is built with them on the CPU."""
    stored = module.state_dict().keys()
    for name, buffer in list(module.named_buffers()):
        if name not in stored:
            set_tensor(module, name, buffer.to(device))


def _origins(model: PreTrainedModel, keys: Iterable[str]) -> dict[str, _Origin]:
    """Name of a tensor in the model -> what it is made of, by transformers' own rules."""
    state, prefix = model.state_dict(), model.base_model_prefix
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    origins: dict[str, _Origin] = {}
    for key in sorted(keys, key=dot_natural_key):  # the order in which experts are stacked
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = key, None
        if name in state:
            origin = origins.setdefault(name, _Origin(converter=by_pattern.get(pattern)))
            origin.keys.append((key, pattern or key))
    for name, origin in list(origins.items()):
        first, *others = origin.converter.target_patterns if origin.converter else [""]
        origins |= {name.replace(first, other): origin for other in others}
    # A tied tensor may have been stored under either of its names, and is read by either (Zamba shares layers).
    for name, stored_as in tied_names(model).items():
        if stored_as not in origins and name in origins:
            origins[stored_as] = origins[name]
        elif stored_as in origins:
            origins.setdefault(name, origins[stored_as])
    return origins


def _read_index(path: Path) -> dict[str, str]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(key), str(file)) for key, file in listed.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is not readable as an index ({type(error).__name__}).", REMEDY) from None
    for key, file in pairs:
        if Path(file).name != file or file == ".." or "\\" in file:
            raise DamagedError(f"{path} places {key} in {file!r}, which is no file of its folder.", REMEDY)
    return dict(pairs)


def _keys(path: Path) -> list[str]:
    with _opened(path) as opened:
        return list(opened.keys())


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.", REMEDY) from None
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} cannot be read: {error}.", REMEDY) from None
