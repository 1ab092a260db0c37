"""The tensors of a folder of safetensors, memory-mapped, opened and closed group by group. Never pickle."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lsprism.errors import DamagedError, SourceError

INDEX = "model.safetensors.index.json"


class WeightFiles:
    """Which file holds which tensor. Names are the model's; older checkpoints leave out or add the base prefix."""

    def __init__(self, folder: Path, base_prefix: str = "model") -> None:
        self.folder = folder
        self.base_prefix = base_prefix
        self.file_of = _index(folder)

    def key(self, name: str) -> str | None:
        """The checkpoint's key for a tensor of the model, or None."""
        prefix = self.base_prefix + "."
        for key in (name, name.removeprefix(prefix), prefix + name):
            if key in self.file_of:
                return key
        return None

    def read(self, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Tensors by the model's names, floating ones in `dtype`; views of the file while they live, so drop them."""
        wanted: dict[str, list[tuple[str, str]]] = {}
        for name in names:
            key = self.key(name)
            if key is None:
                raise SourceError(
                    f"The weights in {self.folder} hold no tensor for {name}.",
                    "The checkpoint does not fit its config.json; download it again or save it anew with transformers.",
                )
            wanted.setdefault(self.file_of[key], []).append((name, key))
        found = {}
        for file, pairs in wanted.items():
            path = self.folder / file
            try:
                with safe_open(path, framework="pt") as opened:
                    for name, key in pairs:
                        tensor = opened.get_tensor(key)
                        found[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            except (SafetensorError, OSError) as error:
                raise DamagedError(f"{path} cannot be read: {error}.", "Download or convert the model again.") from None
        return found


def _index(folder: Path) -> dict[str, str]:
    index = folder / INDEX
    try:
        if index.is_file():
            return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as opened:
                found.update(dict.fromkeys(opened.keys(), path.name))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedError(f"The weights in {folder} cannot be read: {error}.", "Download the model again.") from None
    if not found:
        raise SourceError(f"{folder} holds no *.safetensors.", "Save the model with transformers' save_pretrained.")
    return found


def fill(module: nn.Module, prefix: str, weights: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
    """Give the module at path `prefix` its weights, in place of those on meta."""
    names = [f"{prefix}.{name}" for name in module.state_dict()]
    tensors = weights.read(names, dtype)
    state = {name.removeprefix(prefix + "."): tensor.to(device) for name, tensor in tensors.items()}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, tensor in state.items():
        if tensor.shape != shapes[name]:
            raise SourceError(
                f"{prefix}.{name} has shape {tuple(tensor.shape)}, the config asks for {tuple(shapes[name])}.",
                "The checkpoint does not fit its config.json; download it again.",
            )
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
