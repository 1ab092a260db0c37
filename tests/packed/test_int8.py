"""int8 values are the nearest multiples of their row's scale, and represent nearly the same matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats import forms

from lsprism.packed.formats import Sparse, dequantize, get_value_type, packed_from_tensors
from lsprism.packed.int8 import LARGEST, quantize_rows, to_int8
from lsprism.packed.modules import PrismLinear

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from(DTYPES), st.sampled_from([1e-3, 1.0, 100.0]))
def test_no_error_exceeds_half_a_step(rows, columns, dtype, size):
    matrix = (torch.randn(rows, columns + 1) * size).to(dtype)
    matrix[0] = 0  # a row of zeros has an arbitrary scale
    numbers, scales = quantize_rows(matrix)
    assert numbers.dtype == torch.int8 and scales.dtype == dtype and int(numbers.abs().max()) <= LARGEST
    off = (numbers.double() * scales.double().unsqueeze(1) - matrix.double()).abs()
    steps, kind = scales.double().unsqueeze(1), torch.finfo(dtype)
    clamped = LARGEST * kind.eps * (steps + kind.smallest_normal)  # clamped values, if the scale was rounded down
    assert bool((off <= 0.5 * steps * (1 + 1e-6) + clamped).all()) and not numbers[0].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_packed_weight_differs_only_by_rounding(dtype):
    torch.manual_seed(0)
    for form in forms(24, 50, 700, 3, dtype):
        small = to_int8(form)
        assert (small.name, small.kept, small.rank, small.dtype) == (form.name, form.kept, form.rank, dtype)
        assert get_value_type(small) == ("float" if form.name == "dense" else "int8")
        error = (small.to_dense().float() - form.to_dense().float()).norm() / form.to_dense().float().norm()
        assert error < 0.02
        again = packed_from_tensors(small.name, small.get_tensors(), 50)
        assert torch.equal(again.to_dense(), small.to_dense())
        layer = PrismLinear(small)
        assert torch.equal(layer.form.to_dense(), small.to_dense())
        other = PrismLinear(to_int8(type(form)(**vars(form))))
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other.form.to_dense(), small.to_dense())


def test_pruned_entries_stay_zero():
    weight, mask = torch.randn(9, 33), torch.rand(9, 33) < 0.4
    small = to_int8(Sparse.pack(weight, mask))
    assert not small.to_dense()[~mask].any()
    full = torch.zeros(9, 33, dtype=torch.int8).masked_scatter_(mask, small.values)
    assert torch.equal(dequantize(full, small.scales), small.to_dense())
