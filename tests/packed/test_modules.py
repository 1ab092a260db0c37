"""PrismLinear multiplies by the matrix that its packed weight represents, in every dtype and for every input shape."""

import pytest
import torch
from test_formats import forms

from lsprism.packed.modules import PrismLinear

ROWS, COLUMNS = 12, 21
KINDS = ("sparse", "low_rank", "sparse_low_rank", "dense")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def form_of(kind, dtype):
    return next(form for form in forms(ROWS, COLUMNS, 130, 2, dtype) if form.name == kind)


@pytest.fixture
def layer(request):
    torch.manual_seed(0)
    kind, dtype, bias = request.param
    return PrismLinear(form_of(kind, dtype), torch.randn(ROWS).to(dtype) if bias else None)


every_layer = pytest.mark.parametrize(
    "layer", [(kind, dtype, bias) for kind in KINDS for dtype in TOLERANCE for bias in (False, True)], indirect=True
)


@every_layer
def test_forward_is_the_product_with_the_dense_matrix(layer):
    dtype = layer.weight.dtype
    for shape in [(COLUMNS,), (1, COLUMNS), (5, COLUMNS), (2, 3, COLUMNS), (0, COLUMNS)]:
        x = torch.randn(shape).to(dtype)
        y = layer(x)
        wanted = x.double() @ layer.form.to_dense().double().T
        if layer.bias is not None:
            wanted += layer.bias.double()
        assert y.dtype == dtype and y.shape == (*shape[:-1], ROWS)
        assert (y.double() - wanted).norm() <= TOLERANCE[dtype] * wanted.norm()


@every_layer
def test_the_state_dict_loads_again(layer):
    state = layer.state_dict()
    assert set(state) == set(layer.form.get_tensors()) | ({"bias"} if layer.bias is not None else set())
    other = PrismLinear(form_of(layer.form_name, layer.weight.dtype), layer.bias)
    assert not torch.equal(other.form.to_dense(), layer.form.to_dense())
    other.load_state_dict(state)
    assert torch.equal(other.form.to_dense(), layer.form.to_dense())
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_the_repr_describes_the_layer():
    low_rank = PrismLinear(forms(ROWS, COLUMNS, 130, 2, torch.float32)[1])
    assert repr(low_rank) == "PrismLinear(21, 12, low_rank, kept=26.2%, rank=2)"
