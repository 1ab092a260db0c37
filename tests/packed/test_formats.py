"""Packed formats represent the matrix they were made from, and report the bytes of their tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsprism.allocation.packed_sizes import count_packed_bytes
from lsprism.packed.formats import (
    Dense,
    LowRank,
    Sparse,
    SparseLowRank,
    count_bytes,
    get_value_type,
    pack_mask,
    unpack_mask,
)
from lsprism.packed.int8 import to_int8
from lsprism.packed.modules import get_shape, make_meta_packed
from lsprism.records.model_plan import Layer, LayerBudget

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
quick = settings(max_examples=60, deadline=None)


@st.composite
def masks(draw) -> torch.Tensor:
    """Any shape, including odd widths, with some empty and some full rows."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 35))
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(draw(st.integers(0, 999)))) < 0.5
    for row in range(rows):
        match draw(st.sampled_from(["some", "none", "all"])):
            case "none":
                mask[row] = False
            case "all":
                mask[row] = True
    return mask


@quick
@given(masks())
def test_a_bitmap_unpacks_to_its_mask(mask: torch.Tensor):
    bitmap = pack_mask(mask)
    assert bitmap.shape == (mask.shape[0], -(-mask.shape[1] // 8)) and bitmap.dtype == torch.uint8
    assert torch.equal(unpack_mask(bitmap, mask.shape[1]), mask)


def test_the_lowest_bit_is_the_leftmost_column():
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[0, [0, 3, 9]] = True
    assert pack_mask(mask).tolist() == [[0b1001, 0b10]]


@quick
@given(masks(), st.sampled_from(DTYPES))
def test_sparse_is_the_weight_where_it_is_kept_and_zero_elsewhere(mask: torch.Tensor, dtype: torch.dtype):
    weight = torch.randn(mask.shape).to(dtype)
    weight[:, 0] = 0  # a kept entry may be zero
    form = Sparse.pack(weight, mask)
    assert form.to_dense().dtype == dtype
    assert torch.equal(form.to_dense(), torch.where(mask, weight, torch.zeros((), dtype=dtype)))
    assert form.kept == mask.sum()


def forms(rows: int, columns: int, kept: int, rank: int, dtype: torch.dtype) -> list:
    """One of every format; `kept` includes the factors, as in LayerBudget."""
    nonzeros = kept - rank * (rows + columns)

    def sparse(count: int) -> Sparse:
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        mask[torch.randperm(rows * columns)[:count]] = True
        return Sparse.pack(torch.randn(rows, columns).to(dtype), mask.view(rows, columns))

    factors = LowRank(torch.randn(rows, rank).to(dtype), torch.randn(rank, columns).to(dtype))
    dense = Dense(torch.randn(rows, columns).to(dtype))
    return [sparse(kept), factors, SparseLowRank(sparse(nonzeros), factors), dense]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "columns", "kept", "rank"), [(12, 20, 100, 2), (7, 13, 60, 1), (1, 9, 10, 1)])
def test_reported_bytes_and_shapes_match_the_tensors(rows, columns, kept, rank, dtype):
    site = Layer(name="x", block=0, rows=rows, columns=columns, bias=False)
    there_are = forms(rows, columns, min(kept, rows * columns + rank), rank, dtype)
    for form in [*there_are, *map(to_int8, there_are)]:
        budget = LayerBudget(kept=form.kept, rank=form.rank)
        assert get_shape(form) == (rows, columns) == tuple(form.to_dense().shape)
        assert count_bytes(form) == sum(t.numel() * t.element_size() for t in form.get_tensors().values())
        assert count_bytes(form) == count_packed_bytes(
            form.name, (rows, columns), budget, dtype.itemsize, get_value_type(form)
        )
        planned = make_meta_packed(site, form.name, budget, dtype, get_value_type(form)).get_tensors()
        real = form.get_tensors()
        assert {k: (t.shape, t.dtype) for k, t in planned.items()} == {k: (t.shape, t.dtype) for k, t in real.items()}


def test_sparse_and_low_rank_add_up():
    sparse, factors, *_ = forms(6, 9, 40, 2, torch.float32)
    both = SparseLowRank(sparse, factors)
    assert torch.allclose(both.to_dense(), sparse.to_dense() + factors.left @ factors.right)
    assert both.kept == 40 + 2 * (6 + 9) and both.rank == 2


def test_half_of_bfloat16_takes_nine_sixteenths_of_the_bytes():
    assert count_packed_bytes("sparse", (64, 64), LayerBudget(kept=64 * 32), 2) == 64 * 64 * 2 * 9 // 16
