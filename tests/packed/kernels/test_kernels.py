"""Every instruction set that this CPU supports agrees with the reference path, for any shape."""

import copy
import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsprism.errors import DamagedError, SpecError
from lsprism.models.module_utils import set_tensor
from lsprism.packed.formats import Dense, LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import build, dispatch, reference, tiles
from lsprism.packed.modules import DenseLinear, PrismLinear

LEVELS = build.list_usable_levels()
# More rounding than in a single product: the reference rounds the intermediate low-rank result and each part.
EPSILON = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
every_level = pytest.mark.parametrize(
    "level", [*(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[:-1]), LEVELS[-1]]
)


@st.composite
def products(draw):
    """(form, bias, x): odd sizes, widths that are not a multiple of 32, empty or full rows, a single row."""
    rows, columns = draw(st.integers(1, 40)), draw(st.one_of(st.integers(1, 130), st.sampled_from([32, 64, 128, 256])))
    rank, tokens = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    dtype, kind = draw(st.sampled_from(sorted(EPSILON, key=str))), draw(st.sampled_from(["S", "L", "SL", "D"]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return torch.randn(shape, generator=g).to(dtype)

    mask = torch.rand(rows, columns, generator=g) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    mask[draw(st.integers(0, rows - 1))] = draw(st.booleans())
    mask[-1] = mask[-1] | draw(st.booleans())
    sparse, factors = Sparse.pack(normal(rows, columns), mask), LowRank(normal(rows, rank), normal(rank, columns))
    form = {"S": sparse, "L": factors, "SL": SparseLowRank(sparse, factors), "D": Dense(normal(rows, columns))}[kind]
    form = to_int8(form) if draw(st.booleans()) else form
    return form, normal(rows) if draw(st.booleans()) else None, normal(tokens, columns)


def magnitude(form, bias, x) -> torch.Tensor:
    """|x| |W| + |bias|: rounding errors are proportional to it, even if the sum itself cancels out."""
    match form:
        case SparseLowRank():
            size = magnitude(form.sparse, None, x) + magnitude(form.low_rank, None, x)
        case LowRank():
            left, right = form.get_factors()
            size = x.double().abs() @ right.double().abs().T @ left.double().abs().T
        case _:
            size = x.double().abs() @ form.to_dense().double().abs().T
    return size if bias is None else size + bias.double().abs()


def check(form, bias, x) -> None:
    found = dispatch.PreparedMatmul(form, bias)(x)
    wanted = reference.compute_linear(x, form, bias)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert bool(((found.double() - wanted.double()).abs() <= EPSILON[x.dtype] * magnitude(form, bias, x)).all())


@needs_compiler
@every_level
def test_products_agree_with_the_reference(level):
    @settings(max_examples=100, deadline=None)
    @given(products())
    def holds(product):
        check(*product)

    with dispatch.use_kernel(level):
        holds()


@needs_compiler
@every_level
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_int8_with_long_rows_and_uneven_inputs(level, dtype):
    """Integer sums must not overflow, and one large input must not hide the others."""
    torch.manual_seed(0)
    form = to_int8(Sparse.pack(torch.ones(3, 40000).to(dtype), torch.ones(3, 40000, dtype=torch.bool)))
    x = torch.full((2, 40000), 0.5, dtype=dtype)
    x[1] = torch.randn(40000)
    x[1, 7] = 300
    with dispatch.use_kernel(level):
        check(form, None, x)
        x[0, 3], x[1, 3] = float("nan"), float("inf")
        assert not dispatch.PreparedMatmul(form, None)(x).isfinite().any()


@needs_compiler
@every_level
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", EPSILON, ids=str)
def test_unpacked_rows_equal_the_dense_matrix(level, dtype, int8, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)  # tiles of 64 rows
    torch.manual_seed(0)
    form = Sparse.pack(torch.randn(150, 45).to(dtype), torch.rand(150, 45) < 0.5)
    form = to_int8(form) if int8 else form
    with dispatch.use_kernel(level):
        eye = torch.eye(45).to(dtype)
        assert torch.equal(dispatch.PreparedMatmul(form, None)(eye).T, form.to_dense())


@needs_compiler
@pytest.mark.parametrize("rows", [1, 5, 257])
def test_every_row_is_computed_with_any_number_of_threads(rows):
    torch.manual_seed(0)
    form = Sparse.pack(torch.randn(rows, 20000), torch.rand(rows, 20000) < 0.5)
    product, x, before = dispatch.PreparedMatmul(form, None), torch.randn(1, 20000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = product(x)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(product(x), alone)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_the_kernels_are_used_unless_the_reference_is_selected(monkeypatch):
    layer = PrismLinear(Sparse.pack(torch.randn(5, 40), torch.rand(5, 40) < 0.5))
    calls = []
    monkeypatch.setattr(reference, "compute_linear", lambda *_: calls.append(1))
    with torch.no_grad():
        assert layer(torch.randn(1, 40)) is not None and not calls
        with dispatch.use_kernel("reference"):
            layer(torch.randn(1, 40))
    assert calls == [1]


def test_an_input_that_needs_a_gradient_gets_one():
    form = Sparse.pack(torch.randn(5, 40), torch.rand(5, 40) < 0.5)
    x = torch.randn(2, 40, requires_grad=True)
    PrismLinear(form)(x).sum().backward()
    torch.testing.assert_close(x.grad, form.to_dense().sum(0).expand(2, 40))


def test_replaced_tensors_of_a_layer_are_noticed():
    torch.manual_seed(0)
    one, two = (Sparse.pack(torch.randn(6, 50), torch.rand(6, 50).argsort(1) < 20) for _ in range(2))
    layer, x = PrismLinear(one), torch.randn(1, 50)
    before, twin = layer(x), copy.deepcopy(layer)
    layer.load_state_dict(PrismLinear(two).state_dict())
    torch.testing.assert_close(layer(x), x @ two.to_dense().T)
    assert torch.equal(twin(x), before)
    layer.weight = torch.nn.Parameter(one.values * 2, requires_grad=False)
    torch.testing.assert_close(layer(x), x @ Sparse(one.values * 2, two.bitmap, 50).to_dense().T)
    layer.half()
    assert layer(x.half()).dtype == torch.float16


@pytest.mark.parametrize("dense", [False, True])
def test_replaced_tensors_are_freed(dense):
    layer = torch.nn.Linear(40, 5, bias=False)
    if dense:
        DenseLinear.convert(layer)
    else:
        layer = PrismLinear(Sparse.pack(torch.randn(5, 40), torch.rand(5, 40) < 0.5))
    with torch.no_grad():
        layer(torch.randn(1, 40))
    held = weakref.ref(layer.weight)
    set_tensor(layer, "weight", torch.empty_like(layer.weight, device="meta"))
    gc.collect()
    assert held() is None


def test_a_dense_layer_is_adopted_and_released():
    layer, x = torch.nn.Linear(33, 7), torch.randn(2, 33)
    wanted, state = layer(x), layer.state_dict()
    DenseLinear.convert(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
    assert isinstance(layer, torch.nn.Linear) and layer.state_dict().keys() == state.keys()
    layer.weight.data = layer.weight.data.bfloat16()
    layer.bias.data = layer.bias.data.bfloat16()
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    layer.release()
    assert type(layer) is torch.nn.Linear


@needs_compiler
def test_a_bitmap_that_does_not_match_its_values_is_refused():
    form = Sparse.pack(torch.randn(4, 40), torch.rand(4, 40) < 0.5)
    with pytest.raises(DamagedError, match="bits set"):
        dispatch.PreparedMatmul(Sparse(form.values[1:].clone(), form.bitmap, 40), None)


def test_without_a_compiler_the_reference_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(dispatch, "load_library", build.load_library.__wrapped__)
    form, x = Sparse.pack(torch.randn(5, 40), torch.rand(5, 40) < 0.5), torch.randn(1, 40)
    dispatch._load_best.cache_clear()
    try:
        found = [dispatch.PreparedMatmul(form, None)(x) for _ in range(3)]
        (record,) = caplog.records
        assert record.levelname == "WARNING" and "no C++ compiler" in record.message
        assert torch.equal(found[2], reference.compute_linear(x, form, None))
        with pytest.raises(SpecError, match="cannot be built"), dispatch.use_kernel(LEVELS[-1]):
            pass
    finally:
        dispatch._load_best.cache_clear()


def test_a_failed_build_leaves_no_files_and_gives_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="failed"):
        build.load_library.__wrapped__(LEVELS[-1])
    assert list((tmp_path / "cache").iterdir()) == []


def test_unknown_kernels_are_refused():
    with pytest.raises(SpecError, match="sse9"), dispatch.use_kernel("sse9"):
        pass


# All levels were checked by hand; these two cover both ways to read the last values of a buffer.
@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("level", sorted({"avx2", LEVELS[-1]} & set(LEVELS)))
def test_no_byte_outside_a_buffer_is_accessed(level):
    """The same products with the address and undefined-behavior sanitizers, in a separate process."""
    runtime = subprocess.run(["c++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("no address sanitizer")
    settings = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2"}
    script = [sys.executable, str(Path(__file__).with_name("sanitized.py")), level]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        script, env={**os.environ, **settings, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "clean" in done.stdout, done.stderr[-3000:]
