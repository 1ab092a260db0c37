"""The CUDA kernel's own source computes what the dense matrices do, run on the CPU with PTX instructions emulated."""

import functools
import shutil

import on_host
import pytest
import torch
from test_group import Q_K_V, exact, form_of

from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import gpu, streams
from lsprism.packed.kernels.group import build_group

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]
WARPS = 2
EPS = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    return functools.cache(lambda tokens, half, int8: on_host.compile_kernel(folder, tokens, half, int8, WARPS))


def check(compiled, forms: list, biases: list, tokens: int, blocks: int = 3, limit: int = 100_000) -> None:
    """Twice, as a recorded launch is repeated: the counters must be as they were."""
    dtype, int8 = forms[0].dtype, "scales" in forms[0].get_tensors()
    group = build_group(forms, biases, blocks, WARPS)
    takes = next(n for n in gpu.TOKENS if n >= tokens)
    for _ in range(2):
        x = torch.randn(tokens, group.columns).to(dtype)
        found = on_host.multiply(compiled(takes, dtype is torch.float16, int8), group, x, takes, limit)
        for form, bias, y in zip(forms, biases, found, strict=True):
            wanted = exact(form, bias, x)
            assert y.dtype is dtype and (y - wanted).abs().max() <= EPS[dtype] * wanted.abs().max().clamp(min=1)
        assert not group.scratch["counters"].any()


def hybrid(dtype: torch.dtype, int8: bool = False) -> tuple[list, list]:
    forms = [form_of(rows, 130, rank, dtype) for rows, rank in Q_K_V]
    return [to_int8(form) if int8 else form for form in forms], [
        torch.randn(40).to(dtype),
        None,
        torch.randn(13).to(dtype),
    ]


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_group_with_factors(compiled, tokens):
    torch.manual_seed(tokens)
    check(compiled, *hybrid(torch.bfloat16), tokens)


@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_octets_shared_by_blocks(compiled, blocks):
    torch.manual_seed(1)
    check(compiled, [form_of(24, 300, 3, torch.bfloat16)], [torch.randn(24).bfloat16()], 2, blocks)


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("limit", [100_000, 7_000], ids=["all panels at once", "one after the other"])
def test_panels(compiled, monkeypatch, rank, limit):
    torch.manual_seed(2)
    monkeypatch.setattr(streams, "WIDEST_PANEL", 400)
    form = form_of(24, 1100, rank, torch.bfloat16)
    held = gpu.fit_shared(build_group([form], [None], 3, WARPS), 2, limit)[0]
    assert held == (3 if limit == 100_000 else 1)
    check(compiled, [form], [None], 2, limit=limit)


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_densities_and_longer_records_than_are_loaded_ahead(compiled, density):
    torch.manual_seed(3)
    check(compiled, [form_of(16, 999, 0, torch.bfloat16, density)], [None], 2, blocks=1)


@pytest.mark.parametrize(("dtype", "int8", "rank"), [(torch.bfloat16, False, 3), (torch.float16, True, 0)])
def test_it_unpacks_to_the_same_bits(tmp_path, monkeypatch, dtype, int8, rank):
    torch.manual_seed(4)
    monkeypatch.setattr(streams, "WIDEST_PANEL", 150)
    forms = [form_of(rows, 400, rank, dtype) for rows in (19, 8)]
    forms = [to_int8(form) if int8 else form for form in forms]
    group = build_group(forms, [None, None], 3, WARPS)
    kernel = on_host.compile_kernel(tmp_path, 1, dtype is torch.float16, int8, WARPS, gpu.UNPACK_SOURCE)
    sparse = [form.sparse if rank else form for form in forms]
    assert torch.equal(on_host.unpack(kernel, group), torch.cat([form.to_dense() for form in sparse]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_norm_or_a_gate_before_and_a_residual_after(tmp_path, monkeypatch, dtype):
    """As PyTorch rounds; with several panels, and a right factor that reads the same x."""
    torch.manual_seed(5)
    monkeypatch.setattr(streams, "WIDEST_PANEL", 150)
    form, x, norm = form_of(21, 400, 5, dtype), torch.randn(2, 400).to(dtype), torch.randn(400).to(dtype)
    residual = torch.randn(1, 21).to(dtype) * 30
    kernel = on_host.compile_kernel(tmp_path, 1, dtype is torch.float16, False, WARPS, around=True)
    group = build_group([form], [None], 3, WARPS)
    normed = norm * (x[:1].float() * torch.rsqrt(x[:1].float().pow(2).mean() + 1e-5)).to(dtype)
    gated = torch.nn.functional.silu(x[:1]) * x[1:]
    for given, around, seen in (
        (x[:1], gpu.Around(norm=norm, epsilon=1e-5), normed),
        (x, gpu.Around(gated=True), gated),
        (x[:1], gpu.Around(residual=residual), x[:1]),
        (x, gpu.Around(gated=True, residual=residual), gated),
    ):
        found = on_host.multiply(kernel, group, given.contiguous(), 1, around=around)[0]
        wanted = exact(form, None, seen)
        if around.residual is not None:
            wanted = (wanted.to(dtype) + residual).double()
        assert (found - wanted).abs().max() <= 2 * EPS[dtype] * wanted.abs().max()


@pytest.mark.parametrize(("width", "normed"), [(64, False), (128, True), (256, True)])
def test_heads_are_rotated_as_transformers_does(tmp_path, width, normed):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

    torch.manual_seed(6)
    query, key = torch.randn(6, width).bfloat16(), torch.randn(2, width).bfloat16()
    angle = torch.rand(width // 2).repeat(2) * 6
    cosine, sine = angle.cos().bfloat16(), angle.sin().bfloat16()
    norms = [Qwen3RMSNorm(width, 1e-6).bfloat16() for _ in range(2)]
    for norm in norms:
        norm.weight.data.normal_()
    weights = tuple(norm.weight.data for norm in norms) if normed else (None, None)
    kernel = on_host.compile_rotary(tmp_path, half=False)
    found = on_host.rotate(kernel, query, key, (cosine, sine), weights, 1e-6)
    heads = [norm(head) if normed else head for norm, head in zip(norms, (query, key), strict=True)]
    wanted = apply_rotary_pos_emb(*(head[None, :, None] for head in heads), cosine[None, None], sine[None, None])
    for one, other in zip(found, wanted, strict=True):
        close = (one - other[0, :, 0]).abs() <= 2**-7 * other.abs().max()
        assert close.all() and (one == other[0, :, 0]).float().mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("dtype", list(EPS), ids=str)
@pytest.mark.parametrize("tokens", range(1, 9))
def test_every_kernel(compiled, tokens, dtype, int8):
    torch.manual_seed(tokens)
    check(compiled, *hybrid(dtype, int8), tokens)
