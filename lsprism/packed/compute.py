"""Computes matrix products over many tokens in another dtype than the weights' storage dtype.

Weights, hidden states and artifacts keep the model's dtype (the storage dtype). A CPU without bfloat16 instructions
multiplies large matrices four to seven times slower in bfloat16 than in float32. So inside `convert_products`, the
operands of a product are converted to the compute dtype and the result is converted back. A weight is converted one
tile at a time into a reused buffer, so there is never a second copy of a layer.

This works for any model: products are intercepted in torch's dispatch, not in the model's code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lsprism.packed.formats import Dense
from lsprism.packed.kernels.cpu import CpuPacked, is_readable
from lsprism.packed.kernels.dispatch import FEW_CONVERTED, load_kernels, set_compute_dtype
from lsprism.packed.kernels.tiles import multiply_by_tiles

REDUCED = (torch.bfloat16, torch.float16)

# Functions whose operands are converted to the compute dtype, and whose result is converted back.
_PRODUCTS = {
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    torch.conv1d,
    F.conv1d,
    F.scaled_dot_product_attention,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.mm,
    Tensor.bmm,
    Tensor.addmm,
    Tensor.baddbmm,
    *(getattr(owner, name) for owner, name in ((torch, "_grouped_mm"), (F, "grouped_mm")) if hasattr(owner, name)),
}


@contextmanager
def convert_products(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside the `with`, on this thread, compute products of bfloat16 or float16 tensors in `dtype`; None: no change.

    For forward passes over many tokens. A single token is faster without it, because it is limited by memory bandwidth.
    """
    if dtype is None:
        yield
        return
    before = set_compute_dtype(dtype)
    try:
        with _ConvertedProducts(dtype):
            yield
    finally:
        set_compute_dtype(before)


class _ConvertedProducts(TorchFunctionMode):
    """Replaces the matrix products that are called while it is active."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._compute_linear(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._compute_attention(*args, **kwargs)
        if func in _PRODUCTS:
            return self._compute_product(func, args, kwargs)
        return func(*args, **kwargs)

    def _compute_product(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        stored = next(filter(None, map(self._find_dtype, (*args, *kwargs.values()))), None)
        if stored is None:
            return func(*args, **kwargs)
        found = func(*map(self._convert, args), **{name: self._convert(value) for name, value in kwargs.items()})
        return found.to(stored)

    def _compute_linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        """x [..., columns], weight [rows, columns] -> [..., rows]."""
        if self._find_dtype(input) is None or self._find_dtype(weight) is None:
            return F.linear(input, weight, bias)
        learns = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
        if learns or type(input) is not Tensor or weight.layout is not torch.strided or not input.numel():
            return self._compute_product(F.linear, (input, weight, bias), {})
        few = _multiply_few(input, weight, bias)
        if few is not None:
            return few
        return multiply_by_tiles(input, len(weight), partial(_copy_rows, weight), bias, self.dtype)

    def _compute_attention(self, query: Tensor, *others: Any, **settings: Any) -> Tensor:
        """query [batch, heads, tokens, width]. Converts one sequence of the batch at a time, to save memory."""
        product = F.scaled_dot_product_attention
        operands = [query, *others[:2], *(settings.pop(name) for name in ("key", "value") if name in settings)]
        mask = settings.pop("attn_mask", others[2] if len(others) > 2 else None)
        settings |= dict(zip(("dropout_p", "is_causal"), others[3:], strict=False))
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
        if learns or query.dim() != 4 or self._find_dtype(query) is None:
            return self._compute_product(product, tuple(operands), {**settings, "attn_mask": mask})
        found = query.new_empty(*query.shape[:-1], operands[2].shape[-1])
        for n in range(len(query)):
            own = mask if mask is None or mask.dim() < 4 or len(mask) == 1 else mask[n : n + 1]
            one = tuple(tensor[n : n + 1] for tensor in operands)
            found[n : n + 1] = self._compute_product(product, one, {**settings, "attn_mask": own})
        return found

    def _find_dtype(self, value: Any) -> torch.dtype | None:
        """The dtype of a tensor that has to be converted; None for any other value."""
        known = isinstance(value, Tensor) and value.dtype in REDUCED and value.dtype is not self.dtype
        return value.dtype if known else None

    def _convert(self, value: Any) -> Any:
        if isinstance(value, list | tuple):  # operands of einsum
            return type(value)(map(self._convert, value))
        return value if self._find_dtype(value) is None else value.to(self.dtype)


def _copy_rows(weight: Tensor, first: int, last: int, tile: Tensor) -> None:
    tile.copy_(weight[first:last])


def _multiply_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """x W^T + bias by the C++ kernels, which accumulate in float32; None without kernels or with too many tokens."""
    native = (
        load_kernels() if x.numel() <= FEW_CONVERTED * x.shape[-1] and x.is_cpu and x.dtype is weight.dtype else None
    )
    form = Dense(weight)
    if native is None or not is_readable(form, bias):
        return None
    return CpuPacked(native, form, bias).multiply(native, x.contiguous())
