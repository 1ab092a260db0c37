"""The process that check.py starts: `python -m lsprism.packed.kernels.measure_gpu cuda:0` prints one line of JSON."""

import json
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels import gpu
from lsprism.packed.kernels.group import Packable, build_group

ROWS, COLUMNS, RANK = 4096, 4096, 64
ROUNDS, COPIES = 21, 8  # copies of a matrix that are read in turn, so that they come from memory, not from the cache


def random_form(
    shape: tuple[int, int], density: float, rank: int, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> Packable:
    """A random packed weight."""
    rows, columns = shape
    mask = torch.rand(shape, device=device) < density
    sparse = Sparse.pack(torch.randn(shape, device=device).to(dtype), mask)
    if not rank:
        return sparse
    left, right = torch.randn(rows, rank, device=device), torch.randn(rank, columns, device=device) / columns**0.5
    return SparseLowRank(sparse, LowRank(left.to(dtype), right.to(dtype)))


def _quantize(form: Packable) -> Packable:
    quantized = to_int8(form)
    assert isinstance(quantized, Sparse | SparseLowRank)
    return quantized


def find_error(forms: list[Packable], tokens: int) -> float:
    """The largest error of a group's outputs, relative to the largest output, over two launches."""
    device = forms[0].get_tensors()["bitmap"].device
    biases = [torch.randn(form.to_dense().shape[0], device=device).to(form.dtype) for form in forms]
    group = build_group(forms, biases, gpu.count_blocks(device), gpu.WARPS)
    worst = 0.0
    for _ in range(2):
        x = torch.randn(tokens, group.columns, device=device).to(group.dtype)
        for form, bias, y in zip(forms, biases, gpu.multiply_group(group, x), strict=True):
            exact = _exact(form, bias, x)
            error = float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-9))
            worst = max(worst, error if error == error else float("inf"))
    return worst


def find_block_error(device: torch.device) -> float:
    """The same for what decoder blocks compute around their products, and for the rotary embedding."""
    form = random_form((512, 1024), 0.5, 16, device)
    group = build_group([form], [None], gpu.count_blocks(device), gpu.WARPS)
    x, norm, residual = (torch.randn(2, 1024, device=device).bfloat16() for _ in range(3))
    one, weight, added = x[:1], norm[0], residual[:1, :512].contiguous()
    normed = weight * (one.float() * torch.rsqrt(one.float().pow(2).mean() + 1e-5)).bfloat16()
    errors = []
    for given, around, seen in (
        (one, gpu.Around(norm=weight, epsilon=1e-5), normed),
        (x, gpu.Around(gated=True, residual=added), F.silu(one) * x[1:]),
    ):
        exact = _exact(form, torch.zeros(512, device=device), seen)
        if around.residual is not None:
            exact += around.residual.double()
        y = gpu.launch_group(group, given, around=around)
        assert y is not None
        errors.append(float((y.double() - exact).abs().max() / exact.abs().max()))
    query, key, angle = x[:1].view(8, 128), x[1:, :256].reshape(2, 128), torch.rand(64, device=device).repeat(2)
    cosine, sine = angle.cos().bfloat16(), angle.sin().bfloat16()
    found = gpu.rotate_heads(query, key, (cosine, sine), (None, None), 1e-5)
    for head, turned in zip((query, key), found, strict=True):
        first, second = head.double().chunk(2, 1)
        exact = head.double() * cosine.double() + torch.cat([-second, first], 1) * sine.double()
        errors.append(float((turned.double() - exact).abs().max() / exact.abs().max()))
    return max(error if error == error else float("inf") for error in errors)


def _exact(form: Packable, bias: Tensor, x: Tensor) -> Tensor:
    sparse = form if isinstance(form, Sparse) else form.sparse
    y = F.linear(x.double(), sparse.to_dense().double(), bias.double())
    if isinstance(form, SparseLowRank):
        left, right = form.low_rank.get_factors()
        y += F.linear(F.linear(x.double(), right.double()), left.double())
    return y


def microseconds(ways: dict[str, list[Callable[[], object]]], rounds: int = ROUNDS) -> dict[str, float]:
    """Of one call of each way, recorded as CUDA graphs: the median of rounds, in which the ways alternate."""
    graphs = {name: _record(calls) for name, calls in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):  # the first two warm up
        for name, graph in graphs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if turn >= 2:
                found[name].append(1000 * begin.elapsed_time(end) / len(ways[name]))
    return {name: statistics.median(us) for name, us in found.items()}


def _record(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def products(form: Packable, x: Tensor) -> dict[str, Callable[[], object]]:
    """One product by each way that is there."""
    weight, group = form.to_dense(), build_group([form], [None], gpu.count_blocks(x.device), gpu.WARPS)
    ways: dict[str, Callable[[], object]] = {
        "dense": lambda: F.linear(x, weight),
        "streams": lambda: gpu.multiply_group(group, x),
    }
    try:
        from lsprism.packed.kernels.cuda import CudaPacked
    except ImportError:
        return ways
    packed = CudaPacked(form, None)
    return {**ways, "triton": lambda: packed.multiply(x)}


def main() -> None:
    device = torch.device(sys.argv[1])
    torch.cuda.set_device(device)
    torch.manual_seed(0)
    with torch.inference_mode():
        errors = []
        for tokens in (1, 2, 3, 8):
            for dtype in (torch.bfloat16, torch.float16):
                forms = [random_form((rows, 1000), 0.5, rank, device, dtype) for rows, rank in ((512, 20), (200, 0))]
                errors += [find_error(forms, tokens), find_error([_quantize(form) for form in forms], tokens)]
        errors.append(find_error([random_form((1024, 14336), 0.5, RANK, device)], 8))
        errors.append(find_block_error(device))
        x = torch.randn(1, COLUMNS, device=device).bfloat16()
        made = [products(random_form((ROWS, COLUMNS), 0.5, 0, device), x) for _ in range(COPIES)]
        us = microseconds({name: [one[name] for one in made] for name in made[0]})
    sys.stdout.write(json.dumps({"error": max(errors), "us": us}) + "\n")


if __name__ == "__main__":
    main()
