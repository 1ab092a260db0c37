"""A launch, emulated lane by lane, computes what the dense matrices do."""

import emulate
import pytest
import torch

from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import gpu, streams
from lsprism.packed.kernels.group import build_group

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCKS, WARPS = 3, 2
Q_K_V = [(40, 5), (16, 0), (13, 9)]  # rows, rank


def form_of(rows: int, columns: int, rank: int, dtype: torch.dtype, density: float = 0.5) -> Sparse | SparseLowRank:
    mask = torch.rand(rows, columns) < density
    mask[0], mask[-1] = False, True
    sparse = Sparse.pack(torch.randn(rows, columns).to(dtype), mask)
    left, right = torch.randn(rows, rank).to(dtype), torch.randn(rank, columns).to(dtype)
    return SparseLowRank(sparse, LowRank(left, right)) if rank else sparse


def exact(form: Sparse | SparseLowRank, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """In float64; only the product with the right factor is rounded, as the reference does."""

    def scaled(values: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        return values.double() if scales is None else values.double() * scales.double()[:, None]

    sparse = form if isinstance(form, Sparse) else form.sparse
    mask = sparse.unpack_mask()
    full = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter_(mask, sparse.values.double())
    y = x.double() @ scaled(full, sparse.scales).T
    if isinstance(form, SparseLowRank):
        part = form.low_rank
        inner = (x.double() @ scaled(part.right, part.right_scales).T).to(x.dtype)
        y += inner.double() @ scaled(part.left, part.left_scales).T
    return y if bias is None else y + bias.double()


def check(forms: list, biases: list, tokens: int, blocks: int = BLOCKS) -> None:
    x = torch.randn(tokens, forms[0].to_dense().shape[1]).to(forms[0].dtype)
    found = emulate.multiply(build_group(forms, biases, blocks, WARPS), x)
    for form, bias, y in zip(forms, biases, found, strict=True):
        wanted = exact(form, bias, x)
        assert (y - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())


@pytest.mark.parametrize("tokens", range(1, 9))
def test_a_group_with_factors_for_1_to_8_tokens(tokens):
    torch.manual_seed(tokens)
    forms = [form_of(rows, 130, rank, torch.bfloat16) for rows, rank in Q_K_V]
    check(forms, [torch.randn(40).bfloat16(), None, torch.randn(13).bfloat16()], tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [0, 6])
def test_int8_values_with_their_scales(dtype, rank):
    torch.manual_seed(1)
    check([to_int8(form_of(21, 200, rank, dtype)), to_int8(form_of(8, 200, 0, dtype))], [None, None], 2)


@pytest.mark.parametrize("density", [0.0, 0.03, 0.3, 1.0])
def test_densities(density):
    torch.manual_seed(2)
    check([form_of(24, 333, 0, torch.float16, density)], [torch.randn(24).half()], 1)


@pytest.mark.parametrize("rank", [0, 4])
def test_panels(monkeypatch, rank):
    torch.manual_seed(3)
    monkeypatch.setattr(streams, "WIDEST_PANEL", 100)
    check([form_of(19, 270, rank, torch.bfloat16)], [None], 3)


@pytest.mark.parametrize("blocks", [1, 2, 11])
def test_octets_shared_by_blocks(blocks):
    torch.manual_seed(4)
    check([form_of(16, 300, 3, torch.bfloat16)], [torch.randn(16).bfloat16()], 2, blocks)


def test_shared_memory_is_for_all_panels_if_they_fit():
    group = build_group([form_of(16, 300, 3, torch.bfloat16)], [None], 2, WARPS)
    group.panels = 3
    held, x_at, total = gpu.fit_shared(group, 8, 100_000)
    assert held == 3 and total == x_at + 3 * group.reach * 64
    assert x_at >= max(group.slot_count * 8 * 8 * 4, gpu.DEPTH * 16 * 64)
    assert gpu.fit_shared(group, 8, total - 1)[0] == 1
    assert gpu.fit_shared(group, 8, x_at) is None


def test_arguments_name_the_fields_of_the_kernel():
    """In the order of the struct; whether the sizes agree is asserted when it is compiled."""
    text = (
        gpu.SOURCE.with_name("group.cuh").read_text(encoding="utf-8").partition("struct Group {")[2].partition("};")[0]
    )
    names = [
        word.strip(" *").split()[-1].strip("*").partition("[")[0]
        for line in text.splitlines()
        for word in line.partition("//")[0].replace(";", "").split(",")
        if word.strip()
    ]
    assert names == [name for name, _ in gpu.Arguments._fields_]


def test_arguments_hold_what_the_group_has():
    forms = [form_of(rows, 130, rank, torch.bfloat16) for rows, rank in Q_K_V]
    group, x = build_group(forms, [None] * 3, BLOCKS, WARPS), torch.randn(2, 130).bfloat16()
    found = gpu.fill_arguments(group, x, x.new_empty(2 * 69), 1, 4096)
    assert list(found.members) == [0, 40, 56, 69, 69]
    assert found.steps == group.steps.data_ptr() and found.scales is None and found.bias is None
    assert (found.tokens, found.columns, found.panel, found.panels, found.rank) == (2, 130, 132, 1, 24)


class FakeKernel:
    shared = 100_000

    def __init__(self) -> None:
        self.launched = []

    def launch(self, blocks, threads, shared, arguments, device) -> None:
        self.launched.append((blocks, threads, shared, arguments.tokens, arguments.x_at))


def test_a_launch_has_all_blocks_and_its_shared_memory(monkeypatch):
    group, kernel, asked = build_group([form_of(16, 300, 3, torch.bfloat16)], [None], 2, WARPS), FakeKernel(), []
    monkeypatch.setattr(gpu, "_kernel", lambda *key: asked.append(key[1:]) or kernel)
    found = gpu.multiply_group(group, torch.randn(3, 300).bfloat16())
    assert [y.shape for y in found] == [(3, 16)] and asked == [(4, False, False, False)]
    held, x_at, shared = gpu.fit_shared(group, 4, kernel.shared)
    assert kernel.launched == [(2, 32 * WARPS, shared, 3, x_at)]


def test_tokens_that_do_not_fit_are_multiplied_in_parts(monkeypatch):
    group, kernel = build_group([form_of(16, 300, 3, torch.bfloat16)], [None], 2, WARPS), FakeKernel()
    kernel.shared = gpu.fit_shared(group, 2, 1 << 20)[2]
    monkeypatch.setattr(gpu, "_kernel", lambda *key: kernel)
    found = gpu.multiply_group(group, torch.randn(7, 300).bfloat16())
    assert found[0].shape == (7, 16) and [one[3] for one in kernel.launched] == [2, 2, 2, 1]


def test_what_is_not_a_recent_gpu_has_an_obstacle():
    assert "not a CUDA device" in gpu.find_obstacle(torch.device("cpu"))
