"""Speed of sparse layers on a CPU, and where the time goes; ratios are measured interleaved (A B A B) in one process.

    python tests/bench/speed.py --out speed.json --artifacts output/demo-0.5 output/demo-0.3

Rows, each measured once and stored in --out; at the end they are compared with their targets:
    kernels SHAPE    microseconds per product and fraction of the memory bandwidth (see kernels.py)
    decode ARTIFACT  tokens per second, compared with the model in plain PyTorch, with the dense model in our fused
                     blocks (a gain that is not due to sparsity), and with llama.cpp in F16 and Q8_0 if installed;
                     the models alternate every few tokens
    decode random    the same for a random Llama of TinyLlama's shape with 50 % random sparsity
    profile ARTIFACT time per token by part (see token_parts.py), also for the dense model in the same blocks
    prefill ARTIFACT milliseconds to process a prompt of 512 tokens
    compile          the model in plain PyTorch with and without torch.compile; compressed models do not need it,
                     because their blocks are compiled already
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHAPES = ("4096x4096", "14336x4096", "576x576", "192x576", "1536x576", "576x1536", "49152x576")
PARTS = ("kernels", "decode", "profile", "prefill", "random", "compile")


def kernels(shape: str, options: argparse.Namespace) -> dict:
    import kernels as bench

    rows, columns = map(int, shape.split("x"))
    limit = bench.bandwidth(20)
    made = bench.ways(rows, columns, options.megabytes << 20, few=False)
    found = bench.measure(made, columns, options.rounds, 0.002)
    ways = {}
    for way in made:
        middle, low = found[way.name]
        reached = way.nbytes / low / limit
        ways[way.name] = {"us": middle * 1e6, "low_us": low * 1e6, "bytes": way.nbytes, "of_bandwidth": reached}
    return {"bandwidth_bytes_per_s": limit, "ways": ways}


def decode(sides: dict[str, Callable], options: argparse.Namespace) -> dict:
    """Milliseconds per token of each model, and the speed of the first one relative to each other one."""
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 + options.turns):  # the first one warms up
        for name, one in sides.items():
            seconds = one(1 + options.burst)[1:]  # the first token of a turn finds threads and caches of another model
            if turn:
                turns[name].append(statistics.median(seconds))
    first, *others = sides
    middle = {name: statistics.median(of) for name, of in turns.items()}
    low = {name: sorted(of)[len(of) // 10] for name, of in turns.items()}
    return {
        "ms_per_token": {name: 1000 * s for name, s in middle.items()},
        "low_ms_per_token": {name: 1000 * s for name, s in low.items()},
        "tokens_per_s": {name: 1 / s for name, s in middle.items()},
        f"{first}_over": {
            name: {
                "median": statistics.median(b / a for a, b in zip(turns[first], turns[name], strict=True)),
                "low": low[name] / low[first],
            }
            for name in others
        },
    }


def of_artifact(artifact: str, options: argparse.Namespace) -> dict:
    import llama
    import sides

    model = sides.load(artifact)
    beside = {"compressed": model, "fused bfloat16": sides.load_fused(options.model, "bfloat16")}
    beside |= {f"plain {dtype}": sides.load(options.model, dtype) for dtype in options.dtypes}

    def write(kind: str, to: Path) -> None:
        llama.convert(options.gguf, to, kind)

    return _beside_llama(beside, write if options.gguf else None, options) | sides.layer_bytes(model)


def of_random(options: argparse.Namespace) -> dict:
    import llama
    import sides
    import torch

    plain = {f"plain {dtype}": sides.random_llama(getattr(torch, dtype)) for dtype in options.dtypes}
    model = sides.pruned(sides.random_llama(torch.bfloat16), 0.5)
    beside = {"compressed": model, "fused bfloat16": sides.fused(sides.random_llama(torch.bfloat16)), **plain}

    def write(kind: str, to: Path) -> None:
        llama.of_llama(next(iter(plain.values())), to, kind)

    return _beside_llama(beside, write, options) | sides.layer_bytes(model)


def _beside_llama(models: dict, write: Callable[[str, Path], None] | None, options: argparse.Namespace) -> dict:
    """`write`: writes the GGUF file of a kind; None without a source for it."""
    import llama
    import sides
    import torch

    room = (1 + options.turns) * (1 + options.burst) + 8
    if write is None or not llama.installed(options.llama_python):
        why = "no --gguf" if write is None else f"{options.llama_python} has no llama-cpp-python"
        running = {name: sides.side(model, options.prompt) for name, model in models.items()}
        return decode(running, options) | {"without_llama_cpp": why}
    with tempfile.TemporaryDirectory() as folder:
        children = {}
        for kind in llama.KINDS:
            file = Path(folder) / f"{kind}.gguf"
            write(kind, file)
            child = llama.Child(options.llama_python, file, torch.get_num_threads(), options.prompt, room)
            children[f"llama.cpp {kind}"] = child
        try:
            running = {name: sides.side(model, options.prompt) for name, model in models.items()}
            return decode(running | children, options)
        finally:
            for child in children.values():
                child.close()


def profile(artifact: str, options: argparse.Namespace) -> dict:
    import sides
    from token_parts import token_parts

    models = {"compressed": sides.load(artifact), "fused bfloat16": sides.load_fused(options.model, "bfloat16")}
    tokens = options.turns * options.burst
    return {name: token_parts(model, sides.prompt_of(options.prompt), tokens) for name, model in models.items()}


def of_prefill(artifact: str, options: argparse.Namespace) -> dict:
    import sides

    from lsprism.generation.decode import prefill

    models = {"compressed": sides.load(artifact)}
    models |= {f"plain {dtype}": sides.load(options.model, dtype) for dtype in options.dtypes}

    def read(model: object, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            prefill(model, sides.prompt_of(512))
            seconds.append(time.perf_counter() - started)
        return seconds

    options = argparse.Namespace(turns=max(1, options.turns // 5), burst=1)
    found = decode({name: lambda n, model=model: read(model, n) for name, model in models.items()}, options)
    return {key.replace("token", "prompt"): value for key, value in found.items()}


def of_compile(options: argparse.Namespace) -> dict:
    import setuptools  # noqa: F401 - torch.compile imports it, which fails once distutils is imported without it
    import sides

    room = (1 + options.turns) * (1 + options.burst) + 8
    dtype = options.dtypes[0]
    started = time.perf_counter()
    compiled = sides.compiled_side(sides.load(options.model, dtype), options.prompt, room)
    compiled(2)
    took = time.perf_counter() - started
    plain = sides.side(sides.load(options.model, dtype), options.prompt)
    running = {"torch.compile": compiled, f"plain {dtype}": plain}
    return decode(running, options) | {"seconds_to_compile": took}


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    for shape in options.shapes if "kernels" in options.parts else ():
        yield f"kernels {shape}", lambda shape=shape: kernels(shape, options)
    for artifact in options.artifacts:
        for part, measure in (("decode", of_artifact), ("profile", profile), ("prefill", of_prefill)):
            if part in options.parts:
                yield f"{part} {artifact}", lambda artifact=artifact, measure=measure: measure(artifact, options)
    if "random" in options.parts:
        yield "decode random 0.5", lambda: of_random(options)
    if "compile" in options.parts:
        yield "compile", lambda: of_compile(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", nargs="*", default=[], help="compressed models of --model")
    parser.add_argument("--model", default="demo", help="the baseline")
    parser.add_argument("--dtypes", nargs="*", default=["float16", "bfloat16"], help="dtypes of the baseline")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--gguf", type=Path, help="a GGUF file of --model, of any quantization, for llama.cpp")
    parser.add_argument("--llama-python", default=sys.executable, help="Python with llama-cpp-python")
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--turns", type=int, default=20, help="turns of each model")
    parser.add_argument("--burst", type=int, default=6, help="timed tokens per turn")
    parser.add_argument("--threads", type=int, default=0, help="0 = PyTorch's default")
    parser.add_argument("--rounds", type=int, default=31, help="rounds of the kernel measurements")
    parser.add_argument("--megabytes", type=int, default=256, help="total size of the matrices of a kernel")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()

    import torch
    from targets import claims

    import lsprism.hf  # noqa: F401 - registers the format

    if options.threads:
        torch.set_num_threads(options.threads)
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    shown = {}
    for name, measure in wanted(options):
        key = f"{name}, {torch.get_num_threads()} threads"
        if key not in rows:
            rows[key] = measure() | {"load_of_the_machine": os.getloadavg()[0]}
            options.out.write_text(json.dumps(rows, indent=2))
        shown[key] = rows[key]
        print(key, json.dumps(rows[key], indent=1), flush=True)
    print("\n".join(claims(shown)))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
