"""Microseconds per matrix product at batch 1, and the fraction of the memory bandwidth they reach.

    python tests/bench/kernels.py --threads 2

Every variant cycles through matrices that together far exceed the cache, as a decode step does. The variants are
interleaved (A B A B) in short rounds. Printed are the median and the lowest tenth of the rounds; the latter is what a
busy machine reaches in quiet moments. The bandwidth is measured by reading one large buffer with the same threads.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPES = ("576x576", "1536x576", "576x1536", "49152x576", "4096x4096", "14336x4096")
SPARSITIES = (0.3, 0.5, 0.7)


@dataclass
class Way:
    """One variant: a function per copy of the matrix, and the bytes that each reads."""

    name: str
    copies: list[Callable]
    nbytes: int


def ways(rows: int, columns: int, total: int, few: bool) -> list[Way]:
    """All variants, each with about `total` bytes of matrices; random values are shared where that has no effect."""
    import torch
    import torch.nn.functional as F

    from lsprism.packed.formats import Dense, Sparse, count_bytes
    from lsprism.packed.int8 import to_int8
    from lsprism.packed.kernels.dispatch import PreparedMatmul

    def copies(form) -> list[Callable]:
        count = 1 if few else max(1, total // count_bytes(form))
        again = [
            type(form)(*(v.clone() if isinstance(v, torch.Tensor) else v for v in vars(form).values()))
            for _ in range(count)
        ]
        return [PreparedMatmul(one, None) for one in again]

    weight = torch.randn(rows, columns)
    chance = torch.rand(rows, columns)
    made = []
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        count = 1 if few else max(1, total // (weight.numel() * 2))
        dense = [weight.to(dtype) for _ in range(count)]
        made.append(Way(f"torch {name}", [lambda x, w=w: F.linear(x, w) for w in dense], weight.numel() * 2))
    form = Dense(weight.bfloat16())
    made.append(Way("own dense", copies(form), count_bytes(form)))
    for sparsity in SPARSITIES:
        form = Sparse.pack(weight.bfloat16(), chance >= sparsity)
        made.append(Way(f"bitmap {sparsity:.0%}", copies(form), count_bytes(form)))
    form = to_int8(Sparse.pack(weight.bfloat16(), chance >= 0.5))
    made.append(Way("bitmap 50% int8", copies(form), count_bytes(form)))
    return made


def measure(all_ways: list[Way], columns: int, rounds: int, round_s: float) -> dict[str, list[float]]:
    """Seconds per call of each variant: median and lowest tenth of all rounds."""
    import torch

    x = torch.randn(1, columns)
    inputs = {
        way.name: x.to(torch.float16 if way.name.split()[-1] == "float16" else torch.bfloat16) for way in all_ways
    }
    seconds: dict[str, list[float]] = {way.name: [] for way in all_ways}
    calls: dict[str, int] = {}
    place = dict.fromkeys(seconds, 0)
    with torch.inference_mode():
        for turn in range(rounds + 2):  # the first two warm up
            for way in all_ways:
                repeats, here, y = calls.get(way.name, 3), place[way.name], inputs[way.name]
                started = time.perf_counter()
                for i in range(here, here + repeats):
                    way.copies[i % len(way.copies)](y)
                each = (time.perf_counter() - started) / repeats
                place[way.name] = here + repeats
                calls[way.name] = max(1, round(round_s / each))
                if turn >= 2:
                    seconds[way.name].append(each)
    return {name: [statistics.median(all), sorted(all)[len(all) // 10]] for name, all in seconds.items()}


def bandwidth(rounds: int) -> float:
    """Bytes per second when summing 512 MB: the best of several rounds."""
    import torch

    buffer = torch.ones(1 << 27)
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return buffer.nbytes / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="ROWSxCOLUMNS")
    parser.add_argument("--threads", type=int, default=0, help="0 = PyTorch's default")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--round-ms", type=float, default=2.0)
    parser.add_argument("--megabytes", type=int, default=256, help="total size of each variant's matrices")
    parser.add_argument("--warm", action="store_true", help="one matrix per variant: small ones stay in the cache")
    parser.add_argument("--kernel", default="auto", help="auto, or an instruction set")
    options = parser.parse_args()

    import torch

    from lsprism.packed.kernels.dispatch import use_kernel

    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    limit = bandwidth(20)
    print(f"bandwidth {limit / 1e9:.1f} GB/s, {torch.get_num_threads()} threads, {options.kernel}", file=sys.stderr)
    rows = []
    for shape in options.shapes:
        height, width = map(int, shape.split("x"))
        with use_kernel(options.kernel):
            made = ways(height, width, options.megabytes << 20, options.warm)
            found = measure(made, width, options.rounds, options.round_ms / 1000)
        for way in made:
            middle, low = (round(seconds * 1e6, 1) for seconds in found[way.name])
            share = way.nbytes / (low * 1e-6) / limit
            rows.append({"shape": shape, "way": way.name, "us": middle, "low_us": low, "of_bandwidth": round(share, 2)})
        cells = [f"{row['way']} {row['us']}/{row['low_us']}" for row in rows if row["shape"] == shape]
        print(f"{shape}: " + ", ".join(cells), file=sys.stderr, flush=True)
        del made
    print(json.dumps({"bandwidth_bytes_per_s": limit, "threads": torch.get_num_threads(), "rows": rows}, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
