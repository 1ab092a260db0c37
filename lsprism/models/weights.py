"""Reads tensors from a folder of safetensors files, memory-mapped and group by group. Never pickle."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsprism.errors import DamagedError, SourceError
from lsprism.models.module_utils import set_tensor
from lsprism.models.origins import MISFIT, Origin, check_unexpected_tensors, find_origins
from lsprism.models.structure import get_stored_shapes
from lsprism.models.tensor_files import INDEX, SINGLE, find_stored_dtype, map_tensor_files, open_tensors, read_headers
from lsprism.models.ties import get_tied_names

__all__ = [
    "INDEX",
    "SINGLE",
    "WeightFiles",
    "load_weights",
    "move_buffers",
    "release_weights",
    "find_stored_dtype",
    "map_tensor_files",
]


class WeightFiles:
    """Reads tensors by the names and in the dtypes of `model`, which may be a skeleton.

    The tensors are the same as `from_pretrained` would load. The constructor checks from the headers alone that every
    tensor of the model is stored in its shape, and raises DamagedError or SourceError otherwise.
    """

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        self.folder, self.model = folder, model
        self.headers = read_headers(folder)
        self.kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
        found = find_origins(model, folder, self.headers)
        self.origins = found.of
        # A tied tensor may be stored under either name, and may be read by either name (Zamba shares layers).
        for name, kept in get_tied_names(model).items():
            if kept not in self.origins and name in self.origins:
                self.origins[kept] = self.origins[name]
            elif kept in self.origins:
                self.origins.setdefault(name, self.origins[kept])
        check_unexpected_tensors(
            folder, model, found.unused, {key: header.file for key, header in self.headers.items()}
        )
        self._check()

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors by the model's names. They may be views of the mapped file: release them soon."""
        names = list(names)
        origins = {name: self._get_origin(name) for name in names}
        stored = self._read_stored({key for origin in origins.values() for key, _ in origin.used})
        made: dict[str, Tensor] = {}
        for name, origin in origins.items():
            if name not in made:
                made |= self._make(name, origin, stored)
        return {name: made[name].to(self.kinds[name][1]) for name in names}

    def _check(self) -> None:
        """Check that every tensor is stored in the model's shape, in a floating-point dtype where the model has one."""
        shapes = {key: torch.empty(header.shape, device="meta") for key, header in self.headers.items()}
        for name in get_stored_shapes(self.model):
            origin = self._get_origin(name)
            key, _ = origin.keys[0]
            made, (shape, dtype) = self._make(name, origin, shapes)[name], self.kinds[name]
            where = f"{key} in {self.folder / self.headers[key].file}"
            if made.shape != shape:
                raise DamagedError(f"{where} has shape {tuple(made.shape)}, not {tuple(shape)}.", MISFIT)
            if dtype.is_floating_point and not all(self.headers[key].is_float for key, _ in origin.used):
                raise SourceError(
                    f"{where} is stored as {self.headers[key].dtype}, which is not a floating-point dtype.",
                    "The model is quantized: give its unquantized base model.",
                )

    def _get_origin(self, name: str) -> Origin:
        if name not in self.origins:
            raise DamagedError(f"The weights in {self.folder} have no tensor for {name}.", MISFIT)
        return self.origins[name]

    def _make(self, name: str, origin: Origin, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the model that `origin` produces, including `name`."""
        dtype = self.kinds[origin.name][1]
        made = origin.make(self.model, {key: stored[key].to(dtype) for key, _ in origin.used})
        return {name: next(iter(made.values()))} if origin.converter is None else made

    def _read_stored(self, keys: set[str]) -> dict[str, Tensor]:
        """Read tensors by the checkpoint's keys; each file is opened once."""
        found: dict[str, Tensor] = {}
        for file in sorted({self.headers[key].file for key in keys}):
            with open_tensors(self.folder / file) as stored:
                found |= {key: stored.get_tensor(key) for key in keys if self.headers[key].file == file}
        return found


def load_weights(module: nn.Module, prefix: str, weights: WeightFiles, device: torch.device) -> None:
    """Load the weights of the module at path `prefix`; all its tensors are then on `device`."""
    names = list(module.state_dict())
    tensors = weights.read(f"{prefix}.{name}" for name in names)
    for name in names:
        set_tensor(module, name, tensors[f"{prefix}.{name}"].to(device))
    move_buffers(module, device)


def release_weights(module: nn.Module) -> None:
    """Move stored tensors back to meta; buffers that were computed when the model was built are kept, on the CPU."""
    for name, tensor in module.state_dict().items():
        set_tensor(module, name, torch.empty_like(tensor, device="meta"))
    move_buffers(module, torch.device("cpu"))


def move_buffers(module: nn.Module, device: torch.device) -> None:
    """Move the buffers that are not stored in files, such as rotary frequencies; they are built on the CPU."""
    stored = module.state_dict().keys()
    for name, buffer in list(module.named_buffers()):
        if name not in stored:
            set_tensor(module, name, buffer.to(device))
