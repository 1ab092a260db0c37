"""Finds the blocks of a decoder, the linear layers in them, and the parts that are not compressed, by structure alone.

No architecture is known by name. Works on a skeleton: modules with parameters on the meta device; no weight is read.
"""

import inspect
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from lsprism.errors import SourceError
from lsprism.models.checks import find_missing_weights, translate_config_errors
from lsprism.models.module_utils import set_tensor, use_plain_outputs
from lsprism.models.ties import get_tied_names, untie
from lsprism.models.transformers_private import build_glob_alternation, get_dtype_plan, mark_initialized
from lsprism.records.model_plan import Layer, SkippedPart

MIN_ROWS = 16  # a router has as many outputs as experts, a gate has one
MIN_SHARE = 0.01  # fraction of the block's largest layer; key and value projections are always above it


@dataclass(frozen=True)
class ModelStructure:
    blocks: str  # path of the list of blocks in the model
    count: int
    sites: list[Layer]
    left_alone: list[SkippedPart]

    def get_block_layers(self, index: int) -> list[Layer]:
        return [site for site in self.sites if site.block == index]

    def get_block_name(self, index: int) -> str:
        return f"{self.blocks}.{index}"


def build_meta_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Build the model of a folder's config without weights: parameters on meta, computed buffers on the CPU.

    Every tensor has the dtype that `from_pretrained` would give it: some architectures keep a few in float32.
    Embeddings and LM head are tied if the config says so, unless the stored weights differ. Raises SourceError if the
    config does not describe a model that can be built.
    """
    odd = translate_config_errors(folder, RuntimeError, MemoryError)  # raised for impossible sizes
    with odd, init_empty_weights(include_buffers=False), no_init_weights():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    # Buffers are computed outside the constructor, as `from_pretrained` does it: inside, `dtype` is the default dtype.
    for parameter in model.parameters():
        mark_initialized(parameter)  # so that only buffers are computed
    model.initialize_weights()
    model.tie_weights()
    for name, kept in _find_kept_precise(model, dtype).items():
        set_tensor(model, name, kept)
    use_plain_outputs(model)
    if not find_missing_weights(folder):
        untie(model, folder)
    return model.eval().requires_grad_(False)


def list_dropped_parts(folder: Path, model: PreTrainedModel) -> list[str]:
    """Parts of the folder's config, such as vision_config, that its causal language model does not use."""
    with translate_config_errors(folder):
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(whole) is type(model.config):
        return []
    return [name for name in whole.sub_configs if name != "text_config" and getattr(whole, name, None) is not None]


def _find_kept_precise(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    plan = get_dtype_plan(model, dtype)
    if not plan:
        return {}
    wanted, _, _ = build_glob_alternation(list(plan))
    return {name: tensor.float() for name, tensor in model.state_dict().items() if wanted.search(name)}


def find_structure(model: PreTrainedModel) -> ModelStructure:
    """Find the blocks and the layers to compress. Raises SourceError if no list of blocks holds linear layers.

    Every linear layer in a block is compressed, unless it is shared with another module, its weight is used without
    calling the layer, the architecture keeps it in float32, or it is too small (routers, gates): fewer than MIN_ROWS
    outputs, or less than MIN_SHARE of the block's largest layer.
    """
    blocks_name, blocks = _find_blocks(model)
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    tied = {name for pair in get_tied_names(model).items() for name in pair}
    sites, refused = [], {}
    for index, block in enumerate(blocks):
        linear = {f"{blocks_name}.{index}.{name}": part for name, part in block.named_modules() if is_linear(part)}
        largest = max(part.weight.numel() for part in linear.values())
        for name, module in linear.items():
            site = _make_layer(name, index, module)
            if f"{name}.weight" in tied or places[id(module)] > 1:
                refused[name] = "shared with another layer"
            elif _is_weight_used_directly(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]):
                refused[name] = "its weight is used without calling the layer"
            elif site.rows < MIN_ROWS or site.parameters < MIN_SHARE * largest:
                refused[name] = "too small to compress (such as a router or gate)"
            elif module.weight.dtype != model.dtype:
                refused[name] = "kept in float32 by this architecture"
            else:
                sites.append(site)
    if not sites:
        raise SourceError(
            f"{type(model).__name__} has no linear layers that can be compressed.",
            "Choose a larger model.",
        )
    return ModelStructure(blocks_name, len(blocks), sites, _list_skipped(model, blocks_name, sites, refused))


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether the module computes exactly what a linear layer computes."""
    kind: type = type(module)
    return isinstance(module, nn.Linear | Conv1D) and module.weight.ndim == 2 and _is_linear_class(kind)


@cache
def _is_linear_class(kind: type[Any]) -> bool:
    """A subclass with its own constructor may do anything; one without is tested on a small input (Falcon)."""
    if kind in (nn.Linear, Conv1D):
        return True
    if kind.__init__ is not nn.Linear.__init__:
        return False
    probe = kind(3, 2, device="cpu", dtype=torch.float32).requires_grad_(False)
    probe.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]], device="cpu"))
    probe.bias.copy_(torch.tensor([7.0, 8.0], device="cpu"))
    x = torch.tensor([[0.5, -1.0, 2.0]], device="cpu")
    return torch.equal(probe(x), nn.functional.linear(x, probe.weight, probe.bias))


def _is_weight_used_directly(owner: nn.Module, leaf: str) -> bool:
    """Whether the owner's source code multiplies by the layer's weight itself (Mamba's dt_proj, some routers).

    True if it contains `leaf.weight @`, or reads the weight and never calls the layer.
    """
    kind: type = type(owner)
    source, weight = _get_source(kind), rf"\b{re.escape(leaf)}\.weight\b"
    multiplied = re.search(rf"{weight}\s*@", source)
    read = re.search(rf"{weight}(?!\.(dtype|device|shape))", source)
    return bool(multiplied or (read and not re.search(rf"\b{re.escape(leaf)}\(", source)))


@cache
def _get_source(kind: type) -> str:
    """Source code of a class; empty if it was not defined in a file."""
    try:
        return inspect.getsource(kind)
    except OSError:
        return ""


def _make_layer(name: str, block: int, module: nn.Linear | Conv1D) -> Layer:
    transposed = isinstance(module, Conv1D)
    rows, columns = reversed(module.weight.shape) if transposed else module.weight.shape
    return Layer(
        name=name, block=block, rows=rows, columns=columns, bias=module.bias is not None, transposed=transposed
    )


def _find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The module list with the most parameters, inside the text decoder if the model has one."""
    decoder = model.get_decoder()
    start = next((name for name, module in model.named_modules() if module is decoder), "")
    found = _find_block_lists(model, start) or _find_block_lists(model, "")
    if not found:
        raise SourceError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers.",
            "Only transformers decoder models can be compressed.",
        )
    return max(found.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _find_block_lists(model: PreTrainedModel, start: str) -> dict[str, nn.ModuleList]:
    """The outermost module lists below the path `start` in which every entry holds a linear layer."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.get_submodule(start).named_modules(prefix=start):
        inside = any(name.startswith(outer + ".") for outer in found)
        if inside or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(any(is_linear(part) for part in entry.modules()) for entry in module):
            found[name] = module
    return found


def _list_skipped(
    model: PreTrainedModel, blocks: str, sites: list[Layer], refused: dict[str, str]
) -> list[SkippedPart]:
    """Parameters that are not compressed: the same kind in all blocks as one entry, tied ones once."""
    rows: dict[tuple[str, str], int] = {}
    skipped = {f"{site.name}.weight" for site in sites} | get_tied_names(model).keys()
    for name, parameter in model.named_parameters():
        if name in skipped:
            continue
        path = name.removeprefix(blocks + ".")
        reason = refused.get(name.removesuffix(".weight")) or _format_reason(
            model, name, parameter, inside=path != name
        )
        if path != name:  # one entry for all blocks
            path = f"{blocks}.*.{path.partition('.')[2]}"
        rows[path, reason] = rows.get((path, reason), 0) + parameter.numel()
    return [SkippedPart(name=name, parameters=n, reason=reason) for (name, reason), n in rows.items()]


def _format_reason(model: PreTrainedModel, name: str, parameter: torch.Tensor, *, inside: bool) -> str:
    """`inside`: the parameter belongs to a block."""
    module = model.get_submodule(name.rpartition(".")[0])
    if name in get_tied_names(model).values():
        return "tied embedding and LM head: affects every token"
    if isinstance(module, nn.Embedding):
        return "embedding: a lookup table, not a linear layer"
    if module is model.get_output_embeddings():
        return "LM head: affects every token"
    if parameter.ndim < 2:
        return "bias or norm: a vector"
    if not inside:
        return "outside the decoder blocks"
    if parameter.ndim > 2:
        return f"stored as one {parameter.ndim}-D tensor, not as linear layers"
    return "not a standalone linear layer"


def get_stored_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """Name -> shape of every tensor in a checkpoint of the model; tied ones once, under the stored name."""
    tied = get_tied_names(model)
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def count_parameters(model: PreTrainedModel) -> int:
    """Number of parameters of the whole model, tied ones counted once."""
    tied = get_tied_names(model)
    return sum(math.prod(p.shape) for name, p in model.named_parameters() if name not in tied)
