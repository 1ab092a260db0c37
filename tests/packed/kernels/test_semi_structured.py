"""2:4 sparsity with torch's semi-structured tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from lsprism.packed.formats import Sparse
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import dispatch, semi_structured

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def form(rows=64, columns=128, dtype=torch.bfloat16, device="cpu", zero=False):
    torch.manual_seed(0)
    weight = torch.randn(rows, columns).to(device, dtype)
    places = torch.rand(rows, columns // 4, 4).topk(2).indices
    mask = torch.zeros(rows, columns // 4, 4, dtype=torch.bool).scatter_(2, places, True).view(rows, columns)
    if zero:
        weight.view(-1)[mask.view(-1).nonzero()[[0, 5, 77], 0].to(device)] = 0
    return Sparse.pack(weight, mask.to(device))


def parameters(made: Sparse) -> Sparse:
    return Sparse(torch.nn.Parameter(made.values, requires_grad=False), made.bitmap, made.columns)


def test_exactly_two_of_every_four_are_required():
    made = form()
    assert semi_structured.is_two_four(made)
    mask = made.unpack_mask()
    mask[3, 4:8] = torch.tensor([True, True, True, False])
    mask[3, 8:12] = torch.tensor([True, False, False, False])
    assert mask.sum() == made.kept and not semi_structured.is_two_four(Sparse.pack(made.to_dense(), mask))
    four_of_eight = torch.tensor([True] * 4 + [False] * 4).repeat(64, 16)
    assert not semi_structured.is_two_four(Sparse.pack(made.to_dense(), four_of_eight))


@pytest.mark.parametrize("other", [form(rows=48), form(columns=96), form(dtype=torch.float32), to_int8(form())])
def test_tensor_core_requirements(other):
    assert not semi_structured.is_two_four(other)


def by_hand(dense):
    """Packed as by torch for CUTLASS, which works without a GPU."""
    packed, meta = sparse_semi_structured_from_dense_cutlass(dense)
    return SparseSemiStructuredTensorCUTLASS(dense.shape, packed, meta, None, None, None)


@pytest.mark.parametrize("zero", [False, True])
def test_the_values_share_the_memory_of_the_tensor(monkeypatch, zero):
    made = parameters(form(zero=zero))
    before, dense = made.values.clone(), made.to_dense()
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", by_hand)
    monkeypatch.setattr(semi_structured.F, "linear", lambda x, weight: x)
    semi = semi_structured.to_semi_structured(made, dense)
    assert made.values.data_ptr() == semi.packed.data_ptr() and torch.equal(made.values, before)
    assert torch.equal(semi.to_dense(), dense) and torch.equal(made.to_dense(), dense)


def test_only_large_matrices_are_converted(monkeypatch):
    cuda = pytest.importorskip("lsprism.packed.kernels.cuda", reason="triton is not installed")
    asked = []
    monkeypatch.setattr(cuda, "to_semi_structured", lambda form, dense: asked.append(form))
    made = form(device="cuda" if torch.cuda.is_available() else "cpu")
    cuda.CudaPacked(made, None)
    assert asked == []
    monkeypatch.setattr(cuda, "LARGE", made.unpack_mask().numel())
    cuda.CudaPacked(made, None)
    assert asked == [made]


@pytest.mark.parametrize(
    "error", [RuntimeError("cuSPARSELt is not supported"), ValueError("the shape is not supported"), None]
)
def test_without_support_the_packed_weight_is_unchanged(monkeypatch, error):
    made = parameters(form())
    before, address = made.values.clone(), made.values.data_ptr()

    def make(dense):
        if error:
            raise error
        return by_hand(dense.flip(1))  # another order

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", make)
    monkeypatch.setattr(semi_structured.F, "linear", lambda x, weight: x)
    assert semi_structured.to_semi_structured(made, made.to_dense()) is None
    assert made.values.data_ptr() == address and torch.equal(made.values, before)


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(32, 64, 2), (32, 1344, 1)])
def test_one_token_uses_its_own_kernel(monkeypatch, rows, columns, tokens):
    cuda = pytest.importorskip("lsprism.packed.kernels.cuda", reason="triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made, bias = parameters(form(rows, columns, torch.float16, device)), torch.randn(rows, device=device).half()
    packed, x = cuda.CudaPacked(made, bias), torch.randn(tokens, columns, device=device).half()
    monkeypatch.setattr(cuda, "_multiply", None)
    exact = F.linear(x.float(), made.to_dense().float(), bias.float())
    torch.testing.assert_close(packed.multiply(x).float(), exact, rtol=2e-3, atol=2e-2)


@CARD
@pytest.mark.parametrize("tokens", [1, 3, 70, 512])
@pytest.mark.parametrize("zero", [False, True])
def test_a_layer_on_a_gpu_uses_the_tensor(monkeypatch, tokens, zero):
    monkeypatch.setattr("lsprism.packed.kernels.cuda.LARGE", 0)
    made = parameters(form(256, 512, device="cuda", zero=zero))
    bias = torch.randn(256, device="cuda").bfloat16()
    dense, taken = made.to_dense(), torch.cuda.memory_allocated()
    product = dispatch.PreparedMatmul(made, bias)
    assert torch.cuda.memory_allocated() - taken < dense.nbytes / 4
    x = torch.randn(1, tokens, 512, device="cuda").bfloat16()
    assert product._card._semi is not None and product.is_valid(
        {"weight": made.values, "bias": bias}, {"bitmap": made.bitmap}
    )
    torch.testing.assert_close(product(x), F.linear(x, dense, bias), rtol=2e-2, atol=5e-2)
