"""int8 quantization of values: w ~ scale * q, |q| <= 127, with one scale per row of a matrix.

The scale is rounded to the model's dtype before the values are quantized, so rounding the scale adds no error.
"""

import torch
from torch import Tensor

from lsprism.layers.forms import Form, LowRank, Sparse, SparseLowRank, unpack_mask

LARGEST = 127


def rows_to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, n] -> int8 [rows, n] and scales [rows] in the matrix's dtype."""
    exact = matrix.float()
    scales = (exact.abs().amax(dim=1) / LARGEST).to(matrix.dtype)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    numbers = (exact / scales.float().unsqueeze(1)).round().clamp(-LARGEST, LARGEST)
    return numbers.to(torch.int8), scales


def to_int8(form: Form) -> Form:
    """The same packed weight with int8 values; a dense one is returned unchanged."""
    match form:
        case Sparse():
            numbers, scales = rows_to_int8(form.dense())
            places = unpack_mask(form.bitmap, form.columns)
            return Sparse(numbers[places], form.bitmap, form.columns, scales)
        case LowRank(left, right):
            (left, left_scales), (right, right_scales) = rows_to_int8(left), rows_to_int8(right)
            return LowRank(left, right, left_scales, right_scales)
        case SparseLowRank(sparse, low_rank):
            return SparseLowRank(to_int8(sparse), to_int8(low_rank))
        case _:
            return form
