"""Fused decoding of a single token: the compiled kernels compute a decoder block in two calls instead of about sixty
PyTorch operations. Between the two calls, the new key and value are added to the cache that the model was given.

Used for one sequence, one token, no mask, no hooks inside the block, no gradients, in architectures with the same block
structure (FAMILIES). All other cases, and the reference kernels, run the model's own code.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from lsprism.packed.kernels.cpu import PackedBlock
from lsprism.packed.kernels.dispatch import get_active_kernel, load_kernels
from lsprism.packed.modules import DenseLinear, PrismLinear, get_product, link_siblings, streams_for_few

if TYPE_CHECKING:
    from lsprism.models.fused_gpu import GpuBlock

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def enable_fused_decode(model: nn.Module) -> None:
    """Enable fused single-token decoding in all supported blocks of a loaded model, in place."""
    for module in model.modules():
        if _is_block(module):
            kind: type = type(module)
            module.__class__ = _make_fused_class(kind)
            module._step = None
            _link(module)


def _link(block: "_Block") -> None:
    """On a GPU, layers of a block that read the same input are multiplied together."""
    for home, names in ((block.self_attn, _ATTENTION[:3]), (block.mlp, _MLP[:2])):
        layers = [getattr(home, name, None) for name in names]
        packed = [layer for layer in layers if isinstance(layer, PrismLinear)]
        if len(packed) == len(layers):
            link_siblings(packed)


def disable_fused_decode(model: nn.Module) -> None:
    """Undo `enable_fused_decode`."""
    for module in model.modules():
        if "_step" in module.__dict__:
            plain = type(module).__base__
            assert plain is not None
            module.__class__ = plain
            del module._step


class _Block(nn.Module):
    """What is read of a block here; its class is made by `_make_fused_class`."""

    self_attn: Any
    mlp: nn.Module
    input_layernorm: Any
    post_attention_layernorm: Any
    _step: "_FusedStep | None"


def _is_block(module: nn.Module) -> TypeGuard[_Block]:
    kind: type = type(module)
    attention: Any = getattr(module, "self_attn", None)
    if not any(kind.__module__ == f"transformers.models.{name}.modeling_{name}" for name in FAMILIES):
        return False
    return kind.__name__.endswith("DecoderLayer") and attention.config.hidden_act == "silu"


@cache
def _make_fused_class(plain: type[Any]) -> type[_Block]:
    """A subclass of the block that tries the fused step first; it keeps the name, which other code may check."""

    def forward(self: _Block, hidden_states: Tensor, *args: Any, **settings: Any) -> Tensor:
        y = None if args else _run_fused(self, hidden_states, settings)
        return plain.forward(self, hidden_states, *args, **settings) if y is None else y

    def get_state(self: _Block) -> dict[str, Any]:
        return {**self.__dict__, "_step": None}  # a copy has its own tensors

    members = {"forward": forward, "__getstate__": get_state, "__module__": plain.__module__}
    return type(plain.__name__, (plain,), members)


class _FusedStep:
    """A block as the kernels read it, valid while `is_valid()` is true."""

    def __init__(self, block: _Block, linears: list[PrismLinear | DenseLinear]) -> None:
        attention = block.self_attn
        norms: list[Any] = [block.input_layernorm, block.post_attention_layernorm]
        norms += [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        # Between two checks the whole model passes through the CPU caches, so `is_valid` reads as little as possible.
        inside = [(block._modules, name) for name in block._modules]
        self._modules = [(home, name, home[name]) for home, name in inside + _find_owners(block)]
        self._norms = [(norm._parameters, norm.weight) for norm in norms if norm is not None]
        self._products = [(module, get_product(module)) for module in linears]
        inner = [module for module in block.modules() if module is not block]
        self._hooks = [hooks for one in inner for hooks in (one._forward_hooks, one._forward_pre_hooks)]
        self.dtype, self.width = norms[0].weight.dtype, attention.head_dim
        self.gpu: GpuBlock | None = None
        self.packed = None
        packed = [one for _, product in self._products if (one := product.packed) and one.dtype is self.dtype]
        if len(packed) == len(linears):
            heads = (packed[0].rows // self.width, packed[1].rows // self.width, self.width)
            numbers = (norms[0].variance_epsilon, attention.scaling)
            weights = [None if norm is None else norm.weight for norm in norms]
            self.packed = PackedBlock(packed, weights, heads, numbers)

    def is_valid(self) -> bool:
        """Whether the block's modules and tensors are unchanged."""
        for home, name, module in self._modules:
            if home.get(name) is not module:
                return False
        for module, product in self._products:
            if module._product is not product:
                return False
        for norm, weight in self._norms:  # noqa: SIM110 - `all` over a generator takes twice as long
            if norm["weight"] is not weight:
                return False
        return True

    def has_hooks(self) -> bool:
        """Whether a module inside the block has hooks, which the fused step would not call."""
        return any(self._hooks)


def _find_owners(block: _Block) -> list[tuple[dict[str, nn.Module | None], str]]:
    """The dictionaries and names in which the block's linear layers are registered."""
    attention, mlp = block.self_attn._modules, block.mlp._modules
    return [(attention, name) for name in _ATTENTION] + [(mlp, name) for name in _MLP]


def _list_linears(block: _Block) -> list[PrismLinear | DenseLinear] | None:
    """None where another kind of layer is among them."""
    found = [home[name] for home, name in _find_owners(block)]
    linears = [module for module in found if isinstance(module, PrismLinear | DenseLinear)]
    return linears if len(linears) == len(found) else None


def _run_fused(block: _Block, x: Tensor, settings: dict[str, Any]) -> Tensor | None:
    """The block's output for one token, or None if the fused step does not apply."""
    if x.is_cuda:
        return _run_fused_on_gpu(block, x, settings)
    if block.training or torch.compiler.is_compiling() or settings.get("output_attentions"):
        return None
    native, past, position = load_kernels(), settings.get("past_key_values"), settings.get("position_embeddings")
    if native is None or past is None or position is None or settings.get("attention_mask") is not None:
        return None
    if type(x) is not Tensor or x.shape[:-1] != (1, 1) or not x.is_cpu or x.requires_grad or not x.is_contiguous():
        return None
    step = block._step
    if step is None or not step.is_valid():
        linears = _list_linears(block)
        if linears is None:
            return None
        step = block._step = _FusedStep(block, linears)
    cosine, sine = position
    if (
        step.packed is None
        or x.dtype is not step.dtype
        or not _is_compatible(cosine, step)
        or not _is_compatible(sine, step)
    ):
        return None
    if step.has_hooks():
        return None
    query, key, value = step.packed.compute_qkv(native, x, cosine, sine)
    keys, values = past.update(key, value, block.self_attn.layer_idx)
    return step.packed.compute_output(native, x, query, keys, values)


def _run_fused_on_gpu(block: _Block, x: Tensor, settings: dict[str, Any]) -> Tensor | None:
    """The same on a recent GPU, for blocks whose linear layers are all packed."""
    past, position = settings.get("past_key_values"), settings.get("position_embeddings")
    if (
        block.training
        or torch.compiler.is_compiling()
        or settings.get("output_attentions")
        or get_active_kernel() != "auto"
    ):
        return None
    if past is None or position is None or type(x) is not Tensor or x.shape[:-1] != (1, 1) or x.requires_grad:
        return None
    step = block._step
    if step is None or not step.is_valid():
        linears = _list_linears(block)
        if linears is None:
            return None
        streams = [streams_for_few(layer) if isinstance(layer, PrismLinear) else None for layer in linears]
        step = block._step = _FusedStep(block, linears)
        if None not in streams:
            from lsprism.models.fused_gpu import gpu_block

            step.gpu = gpu_block(block, streams)
    if step.gpu is None or x.dtype is not step.dtype or not all(_is_compatible(part, step) for part in position):
        return None
    return None if step.has_hooks() else step.gpu.run(x, past, position, settings.get("attention_mask"))


def _is_compatible(part: Tensor, step: _FusedStep) -> bool:
    return part.numel() == step.width and part.dtype is step.dtype and part.is_contiguous()
