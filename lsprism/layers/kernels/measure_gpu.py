"""The process that check.py starts: `python -m lsprism.layers.kernels.measure_gpu cuda:0` prints one line of JSON."""

import json
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.layers.forms import LowRank, Sparse, SparseLowRank
from lsprism.layers.int8 import to_int8
from lsprism.layers.kernels import gpu
from lsprism.layers.kernels.group import Packable, build_group

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


def find_error(forms: list[Packable], tokens: int) -> float:
    """The largest error of a group's outputs, relative to the largest output, over two launches."""
    device = forms[0].tensors()["bitmap"].device
    biases = [torch.randn(form.dense().shape[0], device=device).to(form.dtype) for form in forms]
    group = build_group(forms, biases, gpu.count_blocks(device), gpu.WARPS)
    worst = 0.0
    for _ in range(2):
        x = torch.randn(tokens, group.columns, device=device).to(group.dtype)
        for form, bias, y in zip(forms, biases, gpu.multiply_group(group, x), strict=True):
            exact = _exact(form, bias, x)
            error = float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-9))
            worst = max(worst, error if error == error else float("inf"))
    return worst


def quantize(forms: list[Packable]) -> list[Packable]:
    """The same with int8 values."""
    return [form for form in map(to_int8, forms) if isinstance(form, Sparse | SparseLowRank)]


def _exact(form: Packable, bias: Tensor, x: Tensor) -> Tensor:
    sparse = form if isinstance(form, Sparse) else form.sparse
    y = F.linear(x.double(), sparse.dense().double(), bias.double())
    if isinstance(form, SparseLowRank):
        left, right = form.low_rank.factors()
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
    weight, group = form.dense(), build_group([form], [None], gpu.count_blocks(x.device), gpu.WARPS)
    ways: dict[str, Callable[[], object]] = {
        "dense": lambda: F.linear(x, weight),
        "streams": lambda: gpu.multiply_group(group, x),
    }
    try:
        from lsprism.layers.kernels.cuda import Packed
    except ImportError:
        return ways
    packed = Packed(form, None)
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
                errors += [find_error(forms, tokens), find_error(quantize(forms), tokens)]
        errors.append(find_error([random_form((1024, 14336), 0.5, RANK, device)], 8))
        x = torch.randn(1, COLUMNS, device=device).bfloat16()
        made = [products(random_form((ROWS, COLUMNS), 0.5, 0, device), x) for _ in range(COPIES)]
        us = microseconds({name: [one[name] for one in made] for name in made[0]})
    sys.stdout.write(json.dumps({"error": max(errors), "us": us}) + "\n")


if __name__ == "__main__":
    main()
