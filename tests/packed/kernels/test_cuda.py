"""Triton kernels: on a CUDA device, or without one in Triton's interpreter."""

import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lsprism.errors import DamagedError
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1), (5, 7), (9, 256), (33, 300), (40, 129), (3, 1100)]
EPS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(scope="module")
def cuda():
    pytest.importorskip("triton", reason="triton is not installed")
    return importlib.import_module("lsprism.packed.kernels.cuda")


def sparse(rows, columns, density, dtype):
    mask = torch.rand(rows, columns) < density
    return Sparse.pack(torch.randn(rows, columns).to(DEVICE, dtype), mask.to(DEVICE))


def factors(rows, columns, rank, dtype):
    return LowRank(torch.randn(rows, rank).to(DEVICE, dtype), torch.randn(rank, columns).to(DEVICE, dtype))


def agrees(cuda, form, tokens, bias=None):
    x = torch.randn(1, tokens, form.to_dense().shape[1]).to(DEVICE, form.dtype)
    found = cuda.CudaPacked(form, bias).multiply(x)
    exact = F.linear(x.double(), form.to_dense().double(), None if bias is None else bias.double())
    scale = F.linear(x.double().abs(), form.to_dense().double().abs()).amax().clamp_min(1)
    assert found.shape == exact.shape and found.dtype is form.dtype
    assert ((found - exact).abs().amax() / scale) < EPS[form.dtype]


@pytest.mark.parametrize(
    ("shape", "dtype"), [(shape, torch.float32) for shape in SHAPES] + [((33, 300), dtype) for dtype in EPS][1:]
)
def test_a_sparse_product_agrees_with_the_dense_one(cuda, shape, dtype):
    torch.manual_seed(0)
    agrees(cuda, sparse(*shape, 0.5, dtype), tokens=1)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_empty_and_full_rows(cuda, density):
    torch.manual_seed(1)
    agrees(cuda, sparse(17, 140, density, torch.float32), tokens=2)


@pytest.mark.parametrize("tokens", [1, 3])
def test_sparse_and_low_rank_with_bias_for_a_few_tokens(cuda, tokens):
    torch.manual_seed(2)
    form = SparseLowRank(sparse(19, 70, 0.4, torch.float32), factors(19, 70, 21, torch.float32))
    agrees(cuda, form, tokens, bias=torch.randn(19, device=DEVICE))


@pytest.mark.parametrize("form", ["sparse", "both"])
def test_int8_values_with_scales(cuda, form):
    torch.manual_seed(3)
    exact = sparse(19, 70, 0.5, torch.float32)
    exact = SparseLowRank(exact, factors(19, 70, 5, torch.float32)) if form == "both" else exact
    agrees(cuda, to_int8(exact), tokens=3)


@pytest.mark.parametrize(("rounded", "dtype"), [(False, torch.bfloat16), (True, torch.float16)])
def test_it_unpacks_to_the_same_bits(cuda, rounded, dtype):
    """float16 where values are rounded: the interpreter truncates float32 to bfloat16 instead of rounding."""
    torch.manual_seed(4)
    form = sparse(33, 150, 0.6, dtype)
    form = to_int8(form) if rounded else form
    assert torch.equal(cuda.CudaPacked(form, None).unpack(), form.to_dense())


def test_a_bitmap_that_does_not_match_its_values_is_refused(cuda):
    form = sparse(8, 16, 0.5, torch.float32)
    with pytest.raises(DamagedError, match="bits set"):
        cuda.CudaPacked(replace(form, values=form.values[:-1]), None)


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 40])
def test_a_layer_on_a_gpu_uses_the_kernels(cuda, monkeypatch, tokens):
    torch.manual_seed(5)
    form = SparseLowRank(sparse(19, 70, 0.4, torch.float32), factors(19, 70, 3, torch.float32))
    bias = torch.randn(19, device=DEVICE)
    monkeypatch.setattr(dispatch, "is_on_gpu", cuda.CudaPacked)
    product, x = dispatch.PreparedMatmul(form, bias), torch.randn(tokens, 70, device=DEVICE)
    asked = []
    monkeypatch.setattr(cuda.CudaPacked, "multiply", counted(cuda.CudaPacked.multiply, "multiply", asked))
    monkeypatch.setattr(cuda.CudaPacked, "unpack", counted(cuda.CudaPacked.unpack, "unpack", asked))
    torch.testing.assert_close(product(x), dispatch.reference.compute_linear(x, form, bias), rtol=1e-4, atol=1e-4)
    way = "multiply" if tokens <= cuda.CudaPacked.few else "unpack"
    assert asked == ([way] if tokens else [])


def counted(function, name, asked):
    return lambda *args: asked.append(name) or function(*args)


def test_cpu_tensors_do_not_use_the_gpu_kernels():
    form = Sparse.pack(torch.randn(4, 8), torch.rand(4, 8) < 0.5)
    assert dispatch.is_on_gpu(form, None) is None
