"""Triton kernels for the sparse format on CUDA devices: multiply by a bitmap and packed values without unpacking.

The bitmap is read in words of 64 columns. For each word, the number of values before it in its row is precomputed (2
bytes per word, 1/4 bit per entry) when a layer is first used; rows that are not a multiple of 64 columns are padded.
So lanes are independent: a lane processes a few consecutive columns, and the preceding bits of the word give the
position of their values. Values without a bit are not read. Sums are float32; lanes are summed once per row.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lsprism.errors import DamagedError
from lsprism.packed.formats import Sparse, SparseLowRank, get_shape
from lsprism.packed.kernels.semi_structured import LARGE, is_two_four, to_semi_structured

WORD = 8  # bytes
FACTORS = 32  # ranks of the low-rank part per step


@triton.jit
def _count_ones(word):
    """Number of set bits, in a form that compilers recognize as popcount."""
    word -= (word >> 1) & 0x5555555555555555
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((word * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def _find_values(words, starts, place, there, shift):
    """Position in the row of the first value from bit `shift` of the word at `place`, and the bits from there on."""
    word = tl.load(words + place, mask=there, other=0)
    start = tl.load(starts + place, mask=there, other=0).to(tl.int32)
    below = (tl.full([1], 1, tl.uint64) << shift) - 1
    return start + _count_ones(word & below), (word >> shift).to(tl.int32)


@triton.jit
def _add(total, value_at, bits, entry, PLACE: tl.constexpr):
    """Add the product of one column if its bit is set; returns the sum and the address of the next value."""
    bit = (bits & (1 << PLACE)) != 0
    value = tl.load(value_at, mask=bit, other=0).to(tl.float32)
    return total + value * entry.to(tl.float32), value_at + tl.where(bit, 1, 0)


@triton.jit
def _add_four(total, value_at, bits, entries, PLACE: tl.constexpr):
    """Like _add, for four columns: entries [lanes, 4]."""
    even, odd = tl.split(tl.reshape(entries, [entries.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    total, value_at = _add(total, value_at, bits, first, PLACE)
    total, value_at = _add(total, value_at, bits, second, PLACE + 1)
    total, value_at = _add(total, value_at, bits, third, PLACE + 2)
    return _add(total, value_at, bits, fourth, PLACE + 3)


@triton.jit
def _multiply(
    x, values, words, starts, offsets, scales, left, left_scales, inner, bias, y, rows, columns, groups, rank,
    SCALED: tl.constexpr, RANKED: tl.constexpr, BIASED: tl.constexpr, LANES: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """y [tokens, rows] from x [tokens, columns] and, with low-rank factors, from inner = x R^T [tokens, rank].

    A program computes one row and one token; each of its lanes processes eight columns at a time.
    """
    row, token = tl.program_id(0), tl.program_id(1)
    lane, span = tl.arange(0, LANES), tl.arange(0, LANES * 8)
    shift = (lane * 8 % 64).to(tl.uint64)
    row_at = values + tl.load(offsets + row)
    total = tl.zeros([LANES], tl.float32)
    for first in range(0, groups, LANES // 8):
        group = first + lane // 8
        place, bits = _find_values(words, starts, row * groups + group, group < groups, shift)
        column = first * 64 + span
        entries = tl.load(x + token * columns + column, mask=column < columns, other=0)
        before, after = tl.split(tl.permute(tl.reshape(entries, [LANES, 2, 4]), [0, 2, 1]))
        total, value_at = _add_four(total, row_at + place, bits, before, 0)
        total, value_at = _add_four(total, value_at, bits, after, 4)
    summed = tl.sum(total)
    if SCALED:
        summed *= tl.load(scales + row).to(tl.float32)
    if RANKED:
        product = tl.zeros([FACTORS], tl.float32)
        for first in range(0, rank, FACTORS):
            factor = first + tl.arange(0, FACTORS)
            part = tl.load(left + row * rank + factor, mask=factor < rank, other=0).to(tl.float32)
            product += part * tl.load(inner + token * rank + factor, mask=factor < rank, other=0).to(tl.float32)
        brought = tl.sum(product)
        if SCALED:
            brought *= tl.load(left_scales + row).to(tl.float32)
        summed += brought
    if BIASED:
        summed += tl.load(bias + row).to(tl.float32)
    tl.store(y + token * rows + row, summed.to(y.dtype.element_ty))


@triton.jit
def _multiply_two_four(x, values, bitmap, bias, y, rows, columns, BIASED: tl.constexpr, LANES: tl.constexpr):
    """y [tokens, rows] from x [tokens, columns], for 2:4 sparsity.

    The positions of the values are known, so the bits select entries of x instead. A lane processes eight columns at a
    time.
    """
    row, token = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, LANES)
    value_at = values + row.to(tl.int64) * (columns // 2)
    total = tl.zeros([LANES, 2], tl.float32)
    for begin in tl.range(0, columns, LANES * 8, loop_unroll_factor=4):
        octet = begin // 8 + lane
        byte = tl.load(bitmap + row * (columns // 8) + octet, mask=octet * 8 < columns, other=0).to(tl.int32)
        bits = byte[:, None] >> (tl.arange(0, 2) * 4)[None, :]
        kept, column = begin // 2 + tl.arange(0, LANES * 4), begin + tl.arange(0, LANES * 8)
        pairs = tl.load(value_at + kept, mask=kept < columns // 2, other=0)
        left, right = tl.split(tl.reshape(pairs, [LANES, 2, 2]))
        entries = tl.load(x + token * columns + column, mask=column < columns, other=0)
        even, odd = tl.split(tl.reshape(entries, [LANES, 2, 2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        one = tl.where((bits & 1) != 0, first, tl.where((bits & 2) != 0, second, third))
        other = tl.where((bits & 8) != 0, fourth, tl.where((bits & 4) != 0, third, second))
        total += left.to(tl.float32) * one.to(tl.float32) + right.to(tl.float32) * other.to(tl.float32)
    summed = tl.sum(tl.sum(total, axis=1))
    if BIASED:
        summed += tl.load(bias + row).to(tl.float32)
    tl.store(y + token * rows + row, summed.to(y.dtype.element_ty))


@triton.jit
def _unpack(
    values, words, starts, offsets, scales, out, rows, columns, groups,
    SCALED: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Unpack to out [rows, columns]; a lane writes four columns."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    lane = tl.arange(0, LANES)[None, :]
    inside = row < rows
    first = tl.program_id(1) * LANES * 4
    group = (first + lane * 4) // 64
    shift = (lane * 4 % 64).to(tl.uint64)
    place, bits = _find_values(words, starts, row * groups + group, inside & (group < groups), shift)
    value_at = values + (tl.load(offsets + row, mask=inside, other=0) + place)
    one, two, three, four = bits & 1, (bits >> 1) & 1, (bits >> 2) & 1, (bits >> 3) & 1
    a = tl.load(value_at, mask=one != 0, other=0)
    b = tl.load(value_at + one, mask=two != 0, other=0)
    c = tl.load(value_at + (one + two), mask=three != 0, other=0)
    d = tl.load(value_at + (one + two + three), mask=four != 0, other=0)
    spread = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [ROWS, LANES * 4])
    if SCALED:
        spread = spread.to(tl.float32) * tl.load(scales + row, mask=inside, other=0).to(tl.float32)
    column = first + tl.arange(0, LANES * 4)[None, :]
    there = inside & (column < columns)
    tl.store(out + row.to(tl.int64) * columns + column, spread.to(out.dtype.element_ty), mask=there)


def pack_words(bitmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert a bitmap, uint8 [rows, ceil(columns / 8)], for the kernels.

    Returns words uint64 [rows, n], the number of values before each word in its row [rows, n] (int16, or int32 for wide
    matrices), and the offset of each row's values int64 [rows + 1].
    """
    rows, stride = bitmap.shape
    if stride % WORD or bitmap.data_ptr() % WORD:
        bitmap = F.pad(bitmap, (0, -stride % WORD))
    ones = torch.tensor([n.bit_count() for n in range(256)], dtype=torch.uint8, device=bitmap.device)
    counts = ones[bitmap.int()].view(rows, -1, WORD).sum(2, dtype=torch.int32)
    starts = counts.cumsum(1, dtype=torch.int32) - counts
    ends = counts.sum(1).cumsum(0)
    if bitmap.shape[1] * 8 <= torch.iinfo(torch.int16).max:
        starts = starts.to(torch.int16)
    return bitmap.view(torch.uint64), starts, torch.cat([ends.new_zeros(1), ends])


class CudaPacked:
    """A packed weight with a sparse part, and its bias, prepared for the kernels.

    Raises DamagedError if the bitmap does not match the values.
    """

    few = 2  # tokens to multiply by the bitmap directly; for more, unpacking the matrix temporarily is faster

    def __init__(self, form: Sparse | SparseLowRank, bias: Tensor | None) -> None:
        self.rows, self.columns = get_shape(form)
        self._sparse = form if isinstance(form, Sparse) else form.sparse
        self._factors = None if isinstance(form, Sparse) else form.low_rank
        self._bias, self._dtype = bias, form.dtype
        self._words, self._starts, self._offsets = pack_words(self._sparse.bitmap)
        self.device = self._offsets.device
        if self._sparse.kept < 1 << 31:
            self._offsets = self._offsets.int()  # faster than 64 bits
        if self._offsets[-1] != self._sparse.kept:
            raise DamagedError(
                f"A bitmap has {self._offsets[-1]} bits set, but {self._sparse.kept} values are stored.",
                "Compress the model again.",
            )
        self._two_four = isinstance(form, Sparse) and is_two_four(form)
        large = self.rows * self.columns >= LARGE
        self._semi = to_semi_structured(self._sparse, self.unpack()) if self._two_four and large else None

    def multiply_many(self, x: Tensor) -> Tensor:
        """x [..., columns], many tokens -> [..., rows] in x's dtype: the sparse part and the bias, without factors."""
        return F.linear(x.contiguous(), self.unpack() if self._semi is None else self._semi, self._bias)

    def multiply(self, x: Tensor) -> Tensor:
        """x [..., columns], contiguous, a few tokens -> [..., rows], in x's dtype."""
        before, x = x.shape[:-1], x.reshape(-1, self.columns)
        y, grid = x.new_empty(len(x), self.rows), (self.rows, len(x))
        lanes = max(32, min(128, triton.next_power_of_2(self.columns // 8)))
        biased, bias = self._bias is not None, _replace_none(self._bias, x)
        if self._two_four:
            with _on(self.device):
                _multiply_two_four[grid](
                    x, self._sparse.values, self._sparse.bitmap, bias, y, self.rows, self.columns,
                    BIASED=biased, LANES=lanes, num_warps=lanes // 32,
                )  # fmt: skip
            return y.view(*before, self.rows)
        inner = left = left_scales = x  # placeholders, which are not read
        if self._factors is not None:
            left, left_scales = self._factors.left, _replace_none(self._factors.left_scales, x)
            inner = F.linear(x, self._factors.get_factors()[1])
        with _on(self.device):
            _multiply[grid](
                x, *self._get_arrays(x), left, left_scales, inner, bias, y,
                self.rows, self.columns, self._words.shape[1], left.shape[1],
                SCALED=self._sparse.scales is not None, RANKED=self._factors is not None, BIASED=biased,
                LANES=lanes, FACTORS=FACTORS, num_warps=lanes // 32,
            )  # fmt: skip
        return y.view(*before, self.rows)

    def unpack(self) -> Tensor:
        """Unpack the sparse part: [rows, columns]."""
        out = torch.empty(self.rows, self.columns, dtype=self._dtype, device=self.device)
        groups = self._words.shape[1]
        lanes = min(256, triton.next_power_of_2(groups * 16))
        with _on(self.device):
            _unpack[(triton.cdiv(self.rows, 4), triton.cdiv(groups * 16, lanes))](
                *self._get_arrays(out), out, self.rows, self.columns, groups,
                SCALED=self._sparse.scales is not None, ROWS=4, LANES=lanes,
            )  # fmt: skip
        return out

    def _get_arrays(self, absent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Values, words, starts, offsets, scales; `absent` in place of a missing one."""
        values = self._sparse.values if self._sparse.kept else absent
        return values, self._words, self._starts, self._offsets, _replace_none(self._sparse.scales, absent)


def _on(device: torch.device) -> AbstractContextManager:
    """Make `device` current, because Triton launches kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _replace_none(tensor: Tensor | None, absent: Tensor) -> Tensor:
    return absent if tensor is None else tensor
