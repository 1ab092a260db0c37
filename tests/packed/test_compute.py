"""Compute dtype: products over many tokens in float32, with tensors stored in 16 bits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from lsprism.packed.compute import convert_products
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import dispatch, tiles
from lsprism.packed.modules import DenseLinear, PrismLinear

STORED = [torch.bfloat16, torch.float16]
TOKENS, ROWS, COLUMNS = 60, 96, 45


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)  # tiles of 64 rows
    monkeypatch.setattr(tiles, "CHUNK_BYTES", 1)
    monkeypatch.setattr(tiles, "LEAST_TOKENS", 32)


def exact(product, *tensors: torch.Tensor) -> torch.Tensor:
    """The product of the same values in float32, rounded once."""
    return product(*(tensor.float() for tensor in tensors)).to(tensors[0].dtype)


PRODUCTS = {
    "linear": (F.linear, (2, TOKENS, COLUMNS), (ROWS, COLUMNS)),
    "linear with bias": (F.linear, (TOKENS, COLUMNS), (ROWS, COLUMNS), (ROWS,)),
    "matmul": (torch.matmul, (2, TOKENS, COLUMNS), (COLUMNS, ROWS)),
    "@": (lambda a, b: a @ b, (TOKENS, COLUMNS), (COLUMNS, ROWS)),
    "bmm": (torch.bmm, (2, TOKENS, COLUMNS), (2, COLUMNS, ROWS)),
    "addmm": (torch.addmm, (ROWS,), (TOKENS, COLUMNS), (COLUMNS, ROWS)),
    "einsum": (lambda a, b: torch.einsum("tc,rc->tr", a, b), (TOKENS, COLUMNS), (ROWS, COLUMNS)),
    "conv1d": (F.conv1d, (1, 4, TOKENS), (8, 4, 3)),
    "attention": (F.scaled_dot_product_attention, *[(1, 2, TOKENS, 8)] * 3),
}


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_that_of_float32_rounded_once(name, stored):
    product, *shapes = PRODUCTS[name]
    tensors = [randn(*shape, dtype=stored) for shape in shapes]
    with convert_products(torch.float32), torch.no_grad():
        found = product(*tensors)
    assert found.dtype is stored
    assert torch.allclose(found.float(), exact(product, *tensors).float(), rtol=torch.finfo(stored).eps, atol=1e-6)


@pytest.mark.parametrize("texts", [1, 2])
def test_attention_uses_the_mask_of_each_sequence(texts):
    query, key, value = (randn(2, 2, TOKENS, 8) for _ in range(3))
    mask = torch.rand(texts, 1, TOKENS, TOKENS) < 0.8
    mask |= torch.eye(TOKENS, dtype=torch.bool)
    wanted = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    with convert_products(torch.float32), torch.no_grad():
        found = F.scaled_dot_product_attention(query, key, value=value, attn_mask=mask)
    assert torch.allclose(found.float(), wanted, rtol=0.01, atol=1e-3)


def test_products_of_other_dtypes_are_unchanged():
    x, weight = torch.randn(TOKENS, COLUMNS, dtype=torch.float64), torch.randn(ROWS, COLUMNS, dtype=torch.float64)
    with convert_products(torch.float32):
        assert torch.equal(F.linear(x, weight), x @ weight.T)


def test_nothing_is_converted_after_the_with_or_an_error(monkeypatch):
    x, weight = randn(TOKENS, COLUMNS), randn(ROWS, COLUMNS)
    before = F.linear(x, weight)
    with pytest.raises(ZeroDivisionError), convert_products(torch.float32):
        raise ZeroDivisionError
    assert dispatch.set_compute_dtype(None) is None
    assert torch.equal(F.linear(x, weight), before)


def test_an_input_modified_in_place_is_converted_again():
    x, weight = randn(TOKENS, COLUMNS), randn(ROWS, COLUMNS)
    with convert_products(torch.float32), torch.no_grad():
        first = F.linear(x, weight)
        assert torch.equal(F.linear(x.mul_(2), weight), first * 2)


def test_a_large_weight_is_converted_one_tile_at_a_time(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 64 * COLUMNS * 4)
    tiles._buffers.__dict__.clear()
    with convert_products(torch.float32), torch.no_grad():
        F.linear(randn(TOKENS, COLUMNS), randn(50 * 64, COLUMNS))
    assert tiles._buffers.tile.nbytes == tiles.TILE_BYTES


@pytest.mark.parametrize("layer", [nn.Linear(COLUMNS, ROWS), Conv1D(ROWS, COLUMNS)], ids=["linear", "conv1d"])
def test_gradients_are_those_of_float32(layer):
    layer, x = copy.deepcopy(layer).bfloat16(), randn(TOKENS, COLUMNS)
    wide = copy.deepcopy(layer).float()
    with convert_products(torch.float32):
        layer(x).sum().backward()
    wide(x.float()).sum().backward()
    assert torch.allclose(layer.weight.grad.float(), wide.weight.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("tokens", [1, 12, TOKENS], ids=lambda n: f"{n} tokens")
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("kind", ["sparse", "low_rank", "sparse_low_rank"])
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_a_packed_layer_equals_its_dense_matrix(stored, kind, int8, tokens):
    sparse = Sparse.pack(randn(ROWS, COLUMNS, dtype=stored), torch.rand(ROWS, COLUMNS) < 0.5)
    factors = LowRank(randn(ROWS, 3, dtype=stored), randn(3, COLUMNS, dtype=stored))
    form = {"sparse": sparse, "low_rank": factors, "sparse_low_rank": SparseLowRank(sparse, factors)}[kind]
    layer = PrismLinear(to_int8(form) if int8 else form, randn(ROWS, dtype=stored))
    x = randn(tokens, COLUMNS, dtype=stored)
    with convert_products(torch.float32), torch.no_grad():
        found = layer(x).float()
    wanted = F.linear(x.float(), layer.form.to_dense().float(), layer.bias.float())
    assert torch.linalg.norm(found - wanted) < 4 * torch.finfo(stored).eps * torch.linalg.norm(wanted)


@pytest.mark.parametrize("tokens", [1, 12, TOKENS], ids=lambda n: f"{n} tokens")
def test_a_dense_layer_equals_its_matrix(tokens):
    layer = nn.Linear(COLUMNS, ROWS).bfloat16().requires_grad_(False)
    DenseLinear.convert(layer)
    x = randn(tokens, COLUMNS)
    with convert_products(torch.float32), torch.no_grad():
        found = layer(x)
    assert torch.allclose(found.float(), exact(F.linear, x, layer.weight, layer.bias).float(), rtol=0.01, atol=1e-3)
