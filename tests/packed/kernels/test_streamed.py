"""Layers on a recent GPU, whose kernels are emulated here: what they compute, and that nothing of them is lost."""

import copy

import emulate
import pytest
import torch
from test_group import Q_K_V, form_of

from lsprism.packed import modules
from lsprism.packed.formats import Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import check, dispatch, gpu, reference, streamed
from lsprism.packed.kernels.group import streams_of
from lsprism.packed.kernels.streams import unpack_streams
from lsprism.packed.modules import PrismLinear, link_siblings

pytestmark = pytest.mark.usefixtures("one_thread")
COLUMNS = 130


@pytest.fixture
def launches(monkeypatch):
    """A GPU that is none; the launches that it was asked for."""
    made = []

    def multiply(group, x, around=gpu.NOTHING):
        made.append((len(x), group.rows))
        return [y.to(group.dtype) for y in emulate.multiply(group, x)]

    def unpack(group):
        made.append(("unpack", group.rows))
        parts = [unpack_streams(streams_of(group, n)).to(group.dtype) for n in range(len(group.rows))]
        scales = group.tables.get("scales", torch.ones(sum(group.rows)))
        return (torch.cat(parts).float() * scales[:, None]).to(group.dtype)

    def pack(forms, biases):
        if not all(isinstance(form, Sparse | SparseLowRank) for form in forms):
            return None
        sparse = [form if isinstance(form, Sparse) else form.sparse for form in forms]
        return streamed._pack(forms, sparse, biases, torch.device("cpu"))

    monkeypatch.setattr(gpu, "multiply_group", multiply)
    monkeypatch.setattr(gpu, "unpack_group", unpack)
    monkeypatch.setattr(gpu, "count_blocks", lambda device: 3)
    monkeypatch.setattr(gpu, "shared_bytes", lambda device: 100_000)
    monkeypatch.setattr(dispatch, "is_readable", lambda form, bias: False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: not tensor.is_meta))
    monkeypatch.setattr(dispatch, "is_on_gpu", lambda form, bias: None)
    monkeypatch.setattr(modules, "on_recent_gpu", pack)
    return made


def make_layers(int8: bool = False, dtype: torch.dtype = torch.bfloat16) -> list[PrismLinear]:
    torch.manual_seed(0)
    forms = [form_of(rows, COLUMNS, rank, dtype) for rows, rank in Q_K_V]
    forms[0] = with_zeros(forms[0])
    return [
        PrismLinear(to_int8(form) if int8 else form, torch.randn(rows).to(dtype) if rank else None)
        for form, (rows, rank) in zip(forms, Q_K_V, strict=True)
    ]


def with_zeros(form):
    """Some of the values that are kept are zeros, of both signs."""
    form.sparse.values[3], form.sparse.values[40:43], form.sparse.values[-1] = 0.0, -0.0, 0.0
    return form


def bits(layer: PrismLinear) -> dict[str, list]:
    return {name: tensor.clone().view(torch.uint8).tolist() for name, tensor in layer.state_dict().items()}


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_siblings_are_multiplied_in_one_launch(launches, int8, tokens):
    layers = make_layers(int8)
    wanted = []
    x = torch.randn(1, tokens, COLUMNS).bfloat16()
    for layer in layers:
        wanted.append(reference.compute_linear(x, layer.form, layer.bias).float())
    link_siblings(layers)
    with torch.inference_mode():
        found = [layer(x).float() for layer in layers]
    for y, exact in zip(found, wanted, strict=True):
        assert y.shape == exact.shape and (y - exact).abs().max() < 0.03 * exact.abs().max()
    assert launches == [(tokens, [40, 16, 13])]


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_many_tokens_are_multiplied_by_the_unpacked_matrices(launches, int8):
    layers, x = make_layers(int8), torch.randn(1, 20, COLUMNS).bfloat16()
    wanted = [reference.compute_linear(x, layer.form, layer.bias) for layer in layers]
    link_siblings(layers)
    with torch.inference_mode():
        assert all(torch.equal(layer(x), y) for layer, y in zip(layers, wanted, strict=True))
        assert not launches, "nothing is packed for many tokens"
        layers[0](x[:, :1])
        found = [layer(x) for layer in layers]
    for y, exact in zip(found, wanted, strict=True):
        assert (y - exact).abs().max() < 0.03 * exact.abs().max()
    assert launches == [(1, [40, 16, 13]), ("unpack", [40, 16, 13])]


def test_tensors_that_accelerate_moves_are_left_to_it(launches):
    layer, x = make_layers()[0], torch.randn(1, COLUMNS).bfloat16()
    layer._hf_hook = type("Hook", (), {"offload": True})()
    layer(x)
    assert not launches and not layer._parameters["weight"].is_meta


def test_another_input_is_another_launch(launches):
    layers = make_layers()
    link_siblings(layers)
    one, other = torch.randn(1, COLUMNS).bfloat16(), torch.randn(1, COLUMNS).bfloat16()
    first = layers[0](one)
    assert not torch.equal(layers[1](other), layers[1](one))
    assert torch.equal(layers[0](one), first)
    assert len(launches) == 3


def test_without_siblings_each_layer_is_a_launch(launches):
    layers, x = make_layers(), torch.randn(2, COLUMNS).bfloat16()
    for layer in layers:
        layer(x)
    assert [rows for _, rows in launches] == [[40], [16], [13]]


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_the_packed_tensors_are_dropped_and_come_back_bit_by_bit(launches, int8):
    layers = make_layers(int8)
    before = [bits(layer) for layer in layers]
    link_siblings(layers)
    x = torch.randn(1, COLUMNS).bfloat16()
    first = [layer(x) for layer in layers]
    held = [{**layer._parameters, **layer._buffers} for layer in layers]
    assert all(tensors["weight"].is_meta and tensors["bitmap"].is_meta for tensors in held)
    assert layers[0].group is layers[2].group and layers[0].group.nbytes > 0
    assert [bits(layer) for layer in layers] == before
    assert not layers[0]._parameters.get("weight", layers[0]._buffers.get("weight")).is_meta
    assert all(torch.equal(layer(x), y) for layer, y in zip(layers, first, strict=True)), "packed again"


@pytest.mark.parametrize("way", ["weight", "bitmap", "form", "to", "deepcopy", "load"])
def test_whoever_asks_for_the_tensors_gets_them(launches, way):
    layer = make_layers()[0]
    values, bitmap = layer.weight.clone(), layer.bitmap.clone()
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer(torch.randn(1, COLUMNS).bfloat16())
    assert layer._parameters["weight"].is_meta
    match way:
        case "weight" | "bitmap":
            assert not getattr(layer, way).is_meta
        case "form":
            assert torch.equal(layer.form.sparse.values, values)
        case "to":
            layer = layer.to(torch.float16)
            values = values.half()
        case "deepcopy":
            layer = copy.deepcopy(layer)
        case "load":
            layer.load_state_dict(state)
    assert torch.equal(layer.weight, values) and torch.equal(layer.bitmap, bitmap)


def test_training_mode_and_repr_leave_the_tensors_where_they_are(launches):
    layer = make_layers()[0]
    layer(torch.randn(1, COLUMNS).bfloat16())
    assert "rank=5" in repr(layer.eval()) and layer.outline.kept > 0
    assert layer._parameters["weight"].is_meta


def test_an_input_that_needs_a_gradient_takes_the_reference_path(launches):
    layer, x = make_layers()[0], torch.randn(1, COLUMNS).bfloat16()
    y = layer(x)
    found = layer(x.requires_grad_())
    assert found.requires_grad and len(launches) == 1
    assert (found - y).abs().max() < 0.02 * y.abs().max()


def test_layers_that_do_not_fit_together_are_multiplied_one_by_one(launches):
    layers, x = make_layers(), torch.randn(1, COLUMNS).bfloat16()
    layers[1] = PrismLinear(form_of(16, COLUMNS, 3, torch.bfloat16).low_rank)
    link_siblings(layers)
    for layer in layers:
        layer(x)
    assert [rows for _, rows in launches] == [[40], [13]]


def two_four(rows: int, columns: int) -> Sparse:
    mask = torch.tensor([True, False, True, False]).repeat(rows, columns // 4)
    return Sparse.pack(torch.randn(rows, columns).bfloat16(), mask)


@pytest.mark.parametrize(
    "what", ["one", "group", "float32", "low-rank", "2:4", "int8 and float", "columns", "obstacle"]
)
def test_what_is_packed(launches, monkeypatch, what):
    monkeypatch.setattr(streamed, "is_usable", lambda device: what != "obstacle")
    one, other = form_of(40, 64, 5, torch.bfloat16), form_of(32, 64, 0, torch.bfloat16)
    forms = {
        "one": [one], "group": [one, other], "float32": [form_of(32, 64, 0, torch.float32)], "low-rank": [one.low_rank],
        "2:4": [two_four(32, 64)], "int8 and float": [to_int8(one), other],
        "columns": [other, form_of(32, 65, 0, torch.bfloat16)], "obstacle": [one],
    }[what]  # fmt: skip
    found = streamed.pack_layers(forms, [None] * len(forms))
    assert (found is not None) is (what in ("one", "group")) and len(found or forms) == len(forms)


@pytest.mark.parametrize("shape", [(4, 8), (32, 64)])
def test_what_is_on_the_cpu_is_not_packed(shape):
    assert streamed.pack_layers([form_of(*shape, 0, torch.bfloat16)], [None]) is None


@pytest.mark.parametrize(
    ("obstacle", "verified", "said"),
    [("it is old", True, "it is old"), (None, False, "did not pass"), (None, True, "")],
)
def test_one_line_says_why_triton_is_used(monkeypatch, caplog, obstacle, verified, said):
    monkeypatch.setattr(gpu, "find_obstacle", lambda device: obstacle)
    monkeypatch.setattr(streamed, "is_verified", lambda device: verified)
    streamed.is_usable.cache_clear()
    for _ in range(2):
        assert streamed.is_usable(torch.device("cuda:7")) is (not said)
    assert len(caplog.records) == bool(said) and said in caplog.text
    streamed.is_usable.cache_clear()


def test_a_check_is_made_once_and_may_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("LSPRISM_CACHE", str(tmp_path))
    monkeypatch.setattr(check, "_describe", lambda device: "a GPU")
    found = iter([None, {"error": 0.001, "us": {"streams": 8.0, "triton": 12.0}}])
    monkeypatch.setattr(check, "run_check", lambda device: next(found))
    assert [check.is_verified(torch.device("cuda:0")) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("error", "streams", "good"),
    [(0.001, 8.0, True), (0.5, 8.0, False), (float("inf"), 8.0, False), (0.001, 13.0, False)],
)
def test_wrong_or_slow_kernels_do_not_pass(error, streams, good):
    assert check.passes({"error": error, "us": {"streams": streams, "triton": 12.0}}) is good


def test_a_process_that_fails_is_no_check(caplog):
    """There is no such GPU here."""
    assert check.run_check(torch.device("cuda:99")) is None
    assert "check of the kernels on this GPU failed" in caplog.text
