"""What a decoder is made of, found by structure: its blocks, the linear sites in them, and what is left alone.

Knows no family by name. Works on a skeleton: the model's modules with parameters on the meta device, no weights read.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lsprism.errors import SourceError
from lsprism.reports import LeftAlone, LinearSite


@dataclass(frozen=True)
class Anatomy:
    blocks: str  # path of the list of blocks in the model
    count: int
    sites: list[LinearSite]
    left_alone: list[LeftAlone]

    def of_block(self, index: int) -> list[LinearSite]:
        return [site for site in self.sites if site.block == index]

    def block_name(self, index: int) -> str:
        return f"{self.blocks}.{index}"


def skeleton(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of the folder's config without weights: parameters on meta, small computed buffers real."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return model.eval().requires_grad_(False)


def model_dtype(folder: Path) -> torch.dtype:
    """The dtype the model was published in; float32 where its config does not say."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config.get_text_config().dtype or config.dtype or torch.float32


def dissect(model: PreTrainedModel) -> Anatomy:
    """Find blocks and sites. A model without a list of blocks that hold linear layers is refused (SourceError)."""
    blocks_name, blocks = _find_blocks(model)
    sites = []
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            if is_linear(module):
                sites.append(_site(f"{blocks_name}.{index}.{name}", index, module))
    return Anatomy(blocks_name, len(blocks), sites, _left_alone(model, blocks_name, {site.name for site in sites}))


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D) and module.weight.ndim == 2


def _site(name: str, block: int, module: nn.Module) -> LinearSite:
    transposed = isinstance(module, Conv1D)
    rows, columns = reversed(module.weight.shape) if transposed else module.weight.shape
    return LinearSite(
        name=name, block=block, rows=rows, columns=columns, bias=module.bias is not None, transposed=transposed
    )


def _find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The outermost module list with the most parameters, every entry of which holds a linear layer."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(outer + ".") for outer in found)
        if inside or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(any(is_linear(part) for part in entry.modules()) for entry in module):
            found[name] = module
    if not found:
        raise SourceError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers.",
            "Only decoders of transformers can be compressed.",
        )
    return max(found.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _left_alone(model: PreTrainedModel, blocks: str, sites: set[str]) -> list[LeftAlone]:
    """Parameters outside the sites, those of the same kind in all blocks in one row, tied ones once."""
    rows: dict[tuple[str, str], int] = {}
    tied = tied_names(model)
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if name in tied or (owner in sites and leaf == "weight"):
            continue
        path = name.removeprefix(blocks + ".")
        if path != name:  # in a block: name it once for all
            path = f"{blocks}.*.{path.partition('.')[2]}"
        key = path, _reason(model, name, parameter)
        rows[key] = rows.get(key, 0) + parameter.numel()
    return [LeftAlone(name=name, parameters=n, reason=reason) for (name, reason), n in rows.items()]


def _reason(model: PreTrainedModel, name: str, parameter: torch.Tensor) -> str:
    module = model.get_submodule(name.rpartition(".")[0])
    if name in tied_names(model).values():
        return "embedding and output head in one: decides every token"
    if isinstance(module, nn.Embedding):
        return "embedding: looked up, not multiplied"
    if module is model.get_output_embeddings():
        return "output head: decides every token"
    if parameter.ndim < 2:
        return "bias or norm: a vector"
    if parameter.ndim > 2:
        return f"held as one {parameter.ndim}-D tensor, not as linear layers"
    return "not a linear layer of its own"


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Name of a tied tensor -> name under which it is stored."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def stored_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """Name -> shape of every tensor that a checkpoint of the model holds; tied ones once, under the kept name."""
    tied = tied_names(model)
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters of the whole model, tied ones once."""
    tied = tied_names(model)
    return sum(math.prod(p.shape) for name, p in model.named_parameters() if name not in tied)
