"""int8 quantization of values: w ~ scale * q, |q| <= 127, with one scale per row of a matrix.

The scale is rounded to the model's dtype before the values are quantized, so rounding the scale adds no error.
"""

import torch
from torch import Tensor

from lsprism.packed.formats import LowRank, PackedWeight, Sparse, SparseLowRank, unpack_mask

LARGEST = 127


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, n] -> int8 [rows, n] and scales [rows] in the matrix's dtype."""
    exact = matrix.float()
    scales = (exact.abs().amax(dim=1) / LARGEST).to(matrix.dtype)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    numbers = (exact / scales.float().unsqueeze(1)).round().clamp(-LARGEST, LARGEST)
    return numbers.to(torch.int8), scales


def to_int8(form: PackedWeight) -> PackedWeight:
    """The same packed weight with int8 values; a dense one is returned unchanged."""
    match form:
        case Sparse():
            return _sparse_to_int8(form)
        case LowRank():
            return _factors_to_int8(form)
        case SparseLowRank(sparse, low_rank):
            return SparseLowRank(_sparse_to_int8(sparse), _factors_to_int8(low_rank))
        case _:
            return form


def _sparse_to_int8(form: Sparse) -> Sparse:
    numbers, scales = quantize_rows(form.to_dense())
    return Sparse(numbers[unpack_mask(form.bitmap, form.columns)], form.bitmap, form.columns, scales)


def _factors_to_int8(form: LowRank) -> LowRank:
    (left, left_scales), (right, right_scales) = quantize_rows(form.left), quantize_rows(form.right)
    return LowRank(left, right, left_scales, right_scales)
