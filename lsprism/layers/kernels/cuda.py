"""The same format on a CUDA device, in Triton: a bitmap and packed values, multiplied without a dense matrix.

A program takes some rows and walks over their columns. In a step every lane looks up its bit; a running count of the
bits says where its value lies, and lanes without a bit read nothing. Sums are floats. Correctness is tested in Triton's
interpreter; speed on a card was never measured.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lsprism.errors import DamagedError
from lsprism.layers.forms import Sparse, SparseLowRank, form_shape, unpack_mask

ROWS, COLUMNS = 8, 128  # of a step; columns a multiple of 8
FACTORS = 16  # of the low-rank part at a time


@triton.jit
def _spread(values, bitmap, row, inside, columns, stride, begin, first, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Values [ROWS, COLUMNS] from column `first` on, zero where there is none, and how many there are in each row.

    `begin` [ROWS]: where the values of this step begin.
    """
    column = first + tl.arange(0, COLUMNS)
    there = inside[:, None] & (column < columns)[None, :]
    byte = tl.load(bitmap + row[:, None] * stride + (column // 8)[None, :], mask=there, other=0)
    bit = (byte.to(tl.int32) >> (column % 8)[None, :]) & 1
    place = begin[:, None] + tl.cumsum(bit, axis=1) - bit
    spread = tl.load(values + place, mask=there & (bit != 0), other=0)
    return spread.to(tl.float32), tl.sum(bit, axis=1)


@triton.jit
def _multiply(
    x, values, bitmap, offsets, scales, left, left_scales, inner, bias, y, rows, columns, stride, rank, tokens,
    SCALED: tl.constexpr, RANKED: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FACTORS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """y [tokens, rows] of x [tokens, columns] and, where there are factors, of inner = x R^T [tokens, rank], floats."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, TOKENS)
    inside = row < rows
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    begin = tl.load(offsets + row, mask=inside, other=0)
    for first in range(0, columns, COLUMNS):
        spread, count = _spread(values, bitmap, row, inside, columns, stride, begin, first, ROWS, COLUMNS)
        column = first + tl.arange(0, COLUMNS)
        for token in tl.static_range(TOKENS):
            line = x + tl.minimum(token, tokens - 1) * columns  # what is too much is not stored
            some = tl.load(line + column, mask=column < columns, other=0).to(tl.float32)
            total += tl.sum(spread * some[None, :], axis=1)[:, None] * (place == token)[None, :]
        begin += count
    if SCALED:
        total *= tl.load(scales + row, mask=inside, other=0).to(tl.float32)[:, None]
    if RANKED:
        product = tl.zeros([ROWS, TOKENS], tl.float32)
        for first in range(0, rank, FACTORS):
            factor = first + tl.arange(0, FACTORS)
            there = inside[:, None] & (factor < rank)[None, :]
            part = tl.load(left + row[:, None] * rank + factor[None, :], mask=there, other=0).to(tl.float32)
            for token in tl.static_range(TOKENS):
                line = inner + tl.minimum(token, tokens - 1) * rank
                some = tl.load(line + factor, mask=factor < rank, other=0)
                product += tl.sum(part * some[None, :], axis=1)[:, None] * (place == token)[None, :]
        if SCALED:
            product *= tl.load(left_scales + row, mask=inside, other=0).to(tl.float32)[:, None]
        total += product
    if BIASED:
        total += tl.load(bias + row, mask=inside, other=0).to(tl.float32)[:, None]
    there = inside[:, None] & (place < tokens)[None, :]
    tl.store(y + place[None, :] * rows + row[:, None], total.to(y.dtype.element_ty), mask=there)


@triton.jit
def _unpack(values, bitmap, offsets, scales, out, rows, columns, stride,
            SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out [rows, columns], dense."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    begin = tl.load(offsets + row, mask=inside, other=0)
    for first in range(0, columns, COLUMNS):
        spread, count = _spread(values, bitmap, row, inside, columns, stride, begin, first, ROWS, COLUMNS)
        if SCALED:
            spread *= tl.load(scales + row, mask=inside, other=0).to(tl.float32)[:, None]
        column = first + tl.arange(0, COLUMNS)
        there = inside[:, None] & (column < columns)[None, :]
        place = row[:, None] * columns + column[None, :]
        tl.store(out + place, spread.to(out.dtype.element_ty), mask=there)
        begin += count


def offsets_of(bitmap: Tensor) -> Tensor:
    """uint8 [rows, ceil(columns / 8)] -> int64 [rows + 1]: where each row's values begin, and how many there are."""
    counts = unpack_mask(bitmap, bitmap.shape[1] * 8).sum(1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class Packed:
    """A form with a sparse part, and its bias, as the kernels take them."""

    def __init__(self, form: Sparse | SparseLowRank, bias: Tensor | None) -> None:
        self.rows, self.columns = form_shape(form)
        self._sparse, self._factors = (form, None) if isinstance(form, Sparse) else (form.sparse, form.low_rank)
        self._bias, self._dtype = bias, form.dtype
        self._offsets, self.device = offsets_of(self._sparse.bitmap), form.tensors()["weight"].device
        if self._offsets[-1] != self._sparse.kept:
            raise DamagedError(
                f"A bitmap marks {self._offsets[-1]} places, but {self._sparse.kept} values are stored.",
                "Compress the model again.",
            )

    def multiply(self, x: Tensor) -> Tensor:
        """x [..., columns], contiguous, a few tokens -> [..., rows], in x's dtype."""
        before, x = x.shape[:-1], x.reshape(-1, self.columns)
        y = x.new_empty(len(x), self.rows)
        inner = left = left_scales = x  # what is not there is not read
        if self._factors is not None:
            left, left_scales = self._factors.left, _or(self._factors.left_scales, x)
            inner = F.linear(x, self._factors.factors()[1]).float()
        _multiply[(triton.cdiv(self.rows, ROWS),)](
            x, *self._arrays(x), left, left_scales, inner, _or(self._bias, x), y,
            self.rows, self.columns, self._sparse.bitmap.shape[1], left.shape[1], len(x),
            SCALED=self._sparse.scales is not None, RANKED=self._factors is not None, BIASED=self._bias is not None,
            ROWS=ROWS, COLUMNS=COLUMNS, FACTORS=FACTORS, TOKENS=triton.next_power_of_2(len(x)),
        )  # fmt: skip
        return y.view(*before, self.rows)

    def unpack(self) -> Tensor:
        """The sparse part, dense: [rows, columns]."""
        out = torch.empty(self.rows, self.columns, dtype=self._dtype, device=self._offsets.device)
        _unpack[(triton.cdiv(self.rows, ROWS),)](
            *self._arrays(out), out, self.rows, self.columns, self._sparse.bitmap.shape[1],
            SCALED=self._sparse.scales is not None, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
        return out

    def _arrays(self, absent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, bitmap, offsets, scales; `absent` for what there is not."""
        values = self._sparse.values if self._sparse.kept else absent
        return values, self._sparse.bitmap, self._offsets, _or(self._sparse.scales, absent)


def _or(tensor: Tensor | None, absent: Tensor) -> Tensor:
    return absent if tensor is None else tensor
