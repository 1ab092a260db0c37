"""What a decoder is made of, found by structure: its blocks, the linear sites in them, and what is left alone.

Knows no family by name. Works on a skeleton: the model's modules with parameters on the meta device, no weights read.
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
from transformers.core_model_loading import build_glob_alternation
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from lsprism.errors import SourceError
from lsprism.models.checks import config_errors, missing_weights
from lsprism.models.surgery import set_tensor, use_plain_outputs
from lsprism.models.ties import tied_names, untie
from lsprism.reports import LeftAlone, LinearSite

MIN_ROWS = 16  # a router has as many outputs as experts, a gate has one
MIN_SHARE = 0.01  # of the block's largest site: a key or value head of any size is above


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
    """The model of the folder's config without weights: parameters on meta, small computed buffers real.

    Every tensor has the dtype that `from_pretrained` would give it: some families keep a few in float32. Embeddings and
    head are tied if the config says so, unless the folder's weights hold two that differ. SourceError where the config
    describes nothing that can be built.
    """
    odd = config_errors(folder, RuntimeError, MemoryError)  # what numbers that are no sizes lead to
    with odd, init_empty_weights(include_buffers=False), no_init_weights():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    # Buffers are computed outside the constructor, as `from_pretrained` does it: inside, `dtype` is the default dtype.
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # only the buffers
    model.initialize_weights()
    model.tie_weights()
    for name, kept in _kept_precise(model, dtype).items():
        set_tensor(model, name, kept)
    use_plain_outputs(model)
    if not missing_weights(folder):
        untie(model, folder)
    return model.eval().requires_grad_(False)


def dropped_parts(folder: Path, model: PreTrainedModel) -> list[str]:
    """Parts of the folder's config, such as vision_config, that its causal language model is made without."""
    with config_errors(folder):
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(whole) is type(model.config):
        return []
    return [name for name in whole.sub_configs if name != "text_config" and getattr(whole, name, None) is not None]


def _kept_precise(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    plan = model._get_dtype_plan(dtype)
    if not plan:
        return {}
    wanted, _, _ = build_glob_alternation(list(plan))
    return {name: tensor.float() for name, tensor in model.state_dict().items() if wanted.search(name)}


def dissect(model: PreTrainedModel) -> Anatomy:
    """Find blocks and sites. A model without a list of blocks that hold linear layers is refused (SourceError).

    A site is a linear layer in a block, unless it is shared with another place, used without being called, kept in
    float32 by its family, or too small to be worth it (as routers and gates are): fewer than MIN_ROWS outputs, or less
    than MIN_SHARE of the block's largest.
    """
    blocks_name, blocks = _find_blocks(model)
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    tied = {name for pair in tied_names(model).items() for name in pair}
    sites, refused = [], {}
    for index, block in enumerate(blocks):
        linear = {f"{blocks_name}.{index}.{name}": part for name, part in block.named_modules() if is_linear(part)}
        largest = max(part.weight.numel() for part in linear.values())
        for name, module in linear.items():
            site = _site(name, index, module)
            if f"{name}.weight" in tied or places[id(module)] > 1:
                refused[name] = "shared with another layer"
            elif _used_bare(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]):
                refused[name] = "its weight is used without calling the layer"
            elif site.rows < MIN_ROWS or site.parameters < MIN_SHARE * largest:
                refused[name] = "too small to be worth it, as routers and gates are"
            elif module.weight.dtype != model.dtype:
                refused[name] = "kept in float32 by its family"
            else:
                sites.append(site)
    if not sites:
        raise SourceError(
            f"{type(model).__name__} has no linear layers in its blocks that could be compressed.",
            "Choose a larger model.",
        )
    return Anatomy(blocks_name, len(blocks), sites, _left_alone(model, blocks_name, sites, refused))


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether the module does what a linear layer does, and nothing else."""
    kind: type = type(module)
    return isinstance(module, nn.Linear | Conv1D) and module.weight.ndim == 2 and _computes_linear(kind)


@cache
def _computes_linear(kind: type[Any]) -> bool:
    """A subclass with a constructor of its own may be anything; one without can be tried (Falcon's linear layer)."""
    if kind in (nn.Linear, Conv1D):
        return True
    if kind.__init__ is not nn.Linear.__init__:
        return False
    probe = kind(3, 2, device="cpu", dtype=torch.float32).requires_grad_(False)
    probe.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]], device="cpu"))
    probe.bias.copy_(torch.tensor([7.0, 8.0], device="cpu"))
    x = torch.tensor([[0.5, -1.0, 2.0]], device="cpu")
    return torch.equal(probe(x), nn.functional.linear(x, probe.weight, probe.bias))


def _used_bare(owner: nn.Module, leaf: str) -> bool:
    """Whether the code around a linear layer multiplies by its weight itself (Mamba's dt_proj, some routers).

    It does where it writes `leaf.weight @`, or reads the weight and never calls the layer.
    """
    kind: type = type(owner)
    source, weight = _source(kind), rf"\b{re.escape(leaf)}\.weight\b"
    multiplied = re.search(rf"{weight}\s*@", source)
    read = re.search(rf"{weight}(?!\.(dtype|device|shape))", source)
    return bool(multiplied or (read and not re.search(rf"\b{re.escape(leaf)}\(", source)))


@cache
def _source(kind: type) -> str:
    """Empty for a class that was written in no file."""
    try:
        return inspect.getsource(kind)
    except OSError:
        return ""


def _site(name: str, block: int, module: nn.Linear | Conv1D) -> LinearSite:
    transposed = isinstance(module, Conv1D)
    rows, columns = reversed(module.weight.shape) if transposed else module.weight.shape
    return LinearSite(
        name=name, block=block, rows=rows, columns=columns, bias=module.bias is not None, transposed=transposed
    )


def _find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list with the most parameters; of the text decoder, where a model has other towers beside it."""
    decoder = model.get_decoder()
    start = next((name for name, module in model.named_modules() if module is decoder), "")
    found = _block_lists(model, start) or _block_lists(model, "")
    if not found:
        raise SourceError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers.",
            "Only decoders of transformers can be compressed.",
        )
    return max(found.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _block_lists(model: PreTrainedModel, start: str) -> dict[str, nn.ModuleList]:
    """The outermost module lists below the path `start`, every entry of which holds a linear layer."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.get_submodule(start).named_modules(prefix=start):
        inside = any(name.startswith(outer + ".") for outer in found)
        if inside or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(any(is_linear(part) for part in entry.modules()) for entry in module):
            found[name] = module
    return found


def _left_alone(
    model: PreTrainedModel, blocks: str, sites: list[LinearSite], refused: dict[str, str]
) -> list[LeftAlone]:
    """Parameters outside the sites, those of the same kind in all blocks in one row, tied ones once."""
    rows: dict[tuple[str, str], int] = {}
    skipped = {f"{site.name}.weight" for site in sites} | tied_names(model).keys()
    for name, parameter in model.named_parameters():
        if name in skipped:
            continue
        path = name.removeprefix(blocks + ".")
        reason = refused.get(name.removesuffix(".weight")) or _reason(model, name, parameter, inside=path != name)
        if path != name:  # in a block: name it once for all
            path = f"{blocks}.*.{path.partition('.')[2]}"
        rows[path, reason] = rows.get((path, reason), 0) + parameter.numel()
    return [LeftAlone(name=name, parameters=n, reason=reason) for (name, reason), n in rows.items()]


def _reason(model: PreTrainedModel, name: str, parameter: torch.Tensor, *, inside: bool) -> str:
    """`inside`: the parameter belongs to a block."""
    module = model.get_submodule(name.rpartition(".")[0])
    if name in tied_names(model).values():
        return "embedding and output head in one: decides every token"
    if isinstance(module, nn.Embedding):
        return "embedding: looked up, not multiplied"
    if module is model.get_output_embeddings():
        return "output head: decides every token"
    if parameter.ndim < 2:
        return "bias or norm: a vector"
    if not inside:
        return "outside the decoder blocks"
    if parameter.ndim > 2:
        return f"held as one {parameter.ndim}-D tensor, not as linear layers"
    return "not a linear layer of its own"


def stored_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    """Name -> shape of every tensor that a checkpoint of the model holds; tied ones once, under the kept name."""
    tied = tied_names(model)
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters of the whole model, tied ones once."""
    tied = tied_names(model)
    return sum(math.prod(p.shape) for name, p in model.named_parameters() if name not in tied)
