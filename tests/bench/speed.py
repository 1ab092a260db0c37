"""How fast sparse layers are, and where the time goes; everything by ratios within one script, A B A B.

    python tests/bench/speed.py --out speed.json --artifacts output/demo-0.5 output/demo-0.3

Rows, each measured once and kept in --out; at the end what they show stands beside what they should show:
    kernels SHAPE    microseconds of a product and the share of the memory bandwidth (see kernels.py)
    decode ARTIFACT  tokens per second beside the model in plain torch, beside the dense model in our own fused blocks
                     (what that brings is not sparsity's), and beside llama.cpp in F16 and Q8_0 where it is installed;
                     the sides take turns of a few tokens
    decode random    the same for a random Llama of TinyLlama's shape, half of its weights removed at random
    profile ARTIFACT where a token's time goes (see token_parts.py), and the dense model's in the same blocks
    prefill ARTIFACT milliseconds to read a prompt of 512 tokens
    compile          the model in plain torch with and without torch.compile; what is compressed needs no compiler:
                     its blocks are compiled already
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
    """Milliseconds per token of each side, and how many times as fast the first side is as each other."""
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 + options.turns):  # the first one warms up
        for name, one in sides.items():
            seconds = one(1 + options.burst)[1:]  # of each turn the first token finds another side's threads and cache
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
    """`write`: makes the file of a kind; None where there is nothing to make it of."""
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
    parser.add_argument("--dtypes", nargs="*", default=["float16", "bfloat16"], help="of the baseline")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--gguf", type=Path, help="a GGUF of --model, of any quantisation, for llama.cpp")
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--turns", type=int, default=20, help="of each side")
    parser.add_argument("--burst", type=int, default=6, help="timed tokens of a turn")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--rounds", type=int, default=31, help="of the kernels")
    parser.add_argument("--megabytes", type=int, default=256, help="of matrices that a kernel reads in turn")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()

    import torch
    from claims import claims

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
