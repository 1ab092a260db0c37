"""The demo model on consumer CPUs: speed of compression, evaluation and generation, by instruction set.

    python tests/bench/consumer.py --level avx2 --artifact output/demo-0.5 --out assets/results/consumer/epyc.json

--level limits PyTorch and our kernels to an instruction set: avx2 (most desktops and laptops), avx512, or native (all
that this CPU supports). Parts, each stored in --out as soon as it is measured:

    products    operations per second of the demo's matrix products with 4,096 tokens, stored in bfloat16: computed in
                bfloat16 ("before"), in float32 after conversion ("after"), and stored in float32
    perplexity  seconds for two windows of 2,048 tokens, stored and computed in the same three ways
    prefill     seconds to the first token, dense and compressed, by prompt length
    decode      tokens per second: compressed, dense in each dtype, and dense with our own kernels
    compress    seconds of the first blocks of hybrid at 0.5 (before and after), of a block in the sensitivity pass, and
                the prediction for all blocks
    command     seconds of a whole compression from the command line, with an empty cache

Variants are interleaved (A B A B) in one process; medians. --table prints the rows in --out as Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "native": {},
}
PROMPTS = (10, 32, 256, 1024)
WAYS = {"before": ("bfloat16", "bfloat16"), "after": ("bfloat16", "auto"), "float32": ("float32", "auto")}


def in_turn(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of each variant, interleaved; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(1 + turns):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(of) for name, of in seconds.items()}


def load(model: str, dtype: str = "auto"):
    from lsprism import api

    return api.load(model, "cpu", dtype)


def products(options: argparse.Namespace) -> dict:
    import torch

    from lsprism.packed.compute import convert_products

    shapes = [(576, 576), (192, 576), (1536, 576), (576, 1536)]
    operands = [(torch.rand(4096, columns), torch.rand(rows, columns)) for rows, columns in shapes]
    small = [(x.bfloat16(), weight.bfloat16()) for x, weight in operands]

    def multiply(pairs: list, compute: torch.dtype | None) -> None:
        with torch.no_grad(), convert_products(compute):
            for x, weight in pairs:
                torch.nn.functional.linear(x, weight)

    ways = {
        "before": lambda: multiply(small, None),
        "after": lambda: multiply(small, torch.float32),
        "float32": lambda: multiply(operands, None),
    }
    work = sum(2 * 4096 * rows * columns for rows, columns in shapes)
    return {name: work / seconds for name, seconds in in_turn(ways, options.turns).items()}


def perplexity(options: argparse.Namespace) -> dict:
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation.perplexity import compute_perplexity as measure
    from lsprism.evaluation.windows import make_windows, select_first
    from lsprism.packed.compute_dtype import use_compute_dtype

    models = {dtype: load("demo", dtype) for dtype in ("bfloat16", "float32")}
    windows = select_first(make_windows(models["float32"].tokenizer, read_text("embedded", split="test"), 2048), 2)
    values = {}

    def one(name: str, dtype: str, compute: str) -> None:
        with use_compute_dtype(compute):
            values[name] = measure(models[dtype].model, windows).value

    ways = {name: lambda name=name, of=of: one(name, *of) for name, of in WAYS.items()}
    return {"seconds": in_turn(ways, 1), "perplexity": values}


def prefill(options: argparse.Namespace) -> dict:
    import torch

    from lsprism.generation.decode import prefill as read
    from lsprism.packed.compute_dtype import use_compute_dtype

    dense = {dtype: load("demo", dtype).model for dtype in ("bfloat16", "float32")}
    compressed = load(options.artifact).model

    def one(model, compute: str, length: int) -> None:
        with use_compute_dtype(compute):
            read(model, torch.arange(length)[None] + 100)

    found = {}
    for length in PROMPTS:
        ways = {name: lambda of=of, n=length: one(dense[of[0]], of[1], n) for name, of in WAYS.items()}
        ways |= {
            "compressed, before": lambda n=length: one(compressed, "bfloat16", n),
            "compressed, after": lambda n=length: one(compressed, "auto", n),
        }
        found[length] = in_turn(ways, options.turns)
    return found


def decode(options: argparse.Namespace) -> dict:
    import sides
    import torch
    from torch import nn

    from lsprism.models.fused_decode import enable_fused_decode
    from lsprism.packed.modules import DenseLinear

    models = {f"dense, {dtype}": load("demo", dtype).model for dtype in ("bfloat16", "float16", "float32")}
    ours = load("demo").model
    for module in ours.modules():
        if type(module) is nn.Linear:
            DenseLinear.convert(module)
    enable_fused_decode(ours)
    models |= {"dense, our kernels": ours, "compressed": load(options.artifact).model}
    with torch.no_grad():
        made = {name: sides.side(model, 32) for name, model in models.items()}
        turns: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(1 + 3 * options.turns):
            for name, one in made.items():
                seconds = one(9)[1:]  # the first token finds the CPU caches of another model
                if turn:
                    turns[name].append(statistics.median(seconds))
    return {name: 1 / statistics.median(of) for name, of in turns.items()}


def compress(options: argparse.Namespace) -> dict:
    from lsprism import api
    from lsprism.specs import CompressSpec, validate

    plan = api.inspect("demo", method="hybrid", sparsity=0.5)
    found: dict = {"predicted": plan.duration.model_dump() | {"total": plan.duration.total}}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("before", "after"):
            settings = {"compute_dtype": WAYS[name][1], "allocation": "uniform", "save_path": Path(folder) / name}
            spec = validate(CompressSpec, model_id="demo", method="hybrid", sparsity=0.5, **settings)
            seconds = []
            with closing(api.stream_compress(spec)) as events:
                for event in events:
                    if event.kind == "block_done":
                        seconds.append(event.seconds)
                    if len(seconds) == options.blocks:
                        break
            found[name] = statistics.median(seconds)
    return found


def command(options: argparse.Namespace) -> dict:
    """README's command line, in a separate process with an empty LSPRISM_HOME that only has the demo model."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "LSPRISM_HOME": home, "PYTHONPATH": str(ROOT)}
        lsprism = [sys.executable, "-m", "lsprism"]
        subprocess.run([*lsprism, "inspect", "--model-id", "demo"], env=environment, check=True, capture_output=True)
        words = ["compress", "--model-id", "demo", "--method", "hybrid", "--sparsity", "0.5", "--force"]
        started = time.perf_counter()
        with (options.out.with_suffix(".log")).open("w") as log:
            done = [*lsprism, *words, "--save-path", options.artifact]
            subprocess.run(done, env=environment, check=True, stdout=log, stderr=log)
        return {"seconds": time.perf_counter() - started}


PARTS = {
    "command": command,
    "compress": compress,
    "products": products,
    "perplexity": perplexity,
    "prefill": prefill,
    "decode": decode,
}


def measure(options: argparse.Namespace) -> None:
    import torch

    from lsprism.packed.kernels.build import list_usable_levels
    from lsprism.packed.kernels.dispatch import use_kernel

    found = read(options.out)
    rows = found.setdefault(options.level, {})
    rows["machine"] = {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", ""),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    kernel = "auto" if options.level == "native" else options.level
    assert kernel == "auto" or kernel in list_usable_levels(), f"this CPU does not support {kernel}"
    for part in options.parts.split(","):
        print(options.level, part, flush=True)
        with use_kernel(kernel):
            rows[part] = PARTS[part](options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def table(found: dict) -> str:
    """A Markdown table with a column per level."""
    lines: dict[str, dict[str, str]] = {}

    def add(level: str, name: str, value: str) -> None:
        lines.setdefault(name, {})[level] = value

    for level, rows in found.items():
        for part, write in CELLS.items():
            if part in rows:
                for name, value in write(rows[part]):
                    add(level, name, value)
    head = f"| demo model, 2 threads | {' | '.join(found)} |\n| --- |{' ---: |' * len(found)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(of.get(level, '') for level in found)} |\n" for name, of in lines.items()
    )


def _of_prefill(rows: dict) -> list[tuple[str, str]]:
    cells = []
    for length, of in rows.items():
        for name in ("before", "after", "compressed, before", "compressed, after"):
            ratio = of[name] / of["float32"]
            side = "compressed" if name.startswith("compressed") else "dense"
            cells.append(
                (f"first token, prompt of {length}, {side}, {name.split()[-1]}", f"{of[name]:.3f} s ({ratio:.2f}x)")
            )
    return cells


CELLS: dict[str, Callable[[dict], list[tuple[str, str]]]] = {
    "command": lambda rows: [("compression, hybrid 0.5, whole", f"{rows['seconds']:.0f} s")],
    "compress": lambda rows: [
        ("predicted", f"{rows['predicted']['total']:.0f} s"),
        ("a block, before", f"{rows['before']:.1f} s"),
        ("a block, after", f"{rows['after']:.1f} s"),
    ],
    "products": lambda rows: [
        (f"products, {name}", f"{rate / 1e9:.0f} GFLOP/s ({rate / rows['float32']:.2f}x)")
        for name, rate in rows.items()
    ],
    "perplexity": lambda rows: [
        (f"perplexity, {name}", f"{s:.1f} s ({s / rows['seconds']['float32']:.2f}x)")
        for name, s in rows["seconds"].items()
    ],
    "prefill": _of_prefill,
    "decode": lambda rows: [(f"tok/s, {name}", f"{speed:.1f}") for name, speed in rows.items()],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", choices=LEVELS, default="native")
    parser.add_argument("--artifact", default=str(ROOT / "output" / "consumer-0.5"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)), end="")
        return
    limits = LEVELS[options.level]
    if any(os.environ.get(name) != value for name, value in limits.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **limits})  # read as torch is loaded
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    measure(options)


if __name__ == "__main__":
    main()
