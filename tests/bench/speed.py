"""How fast sparse layers are, and where the time goes; everything by ratios within one process, A B A B.

    python tests/bench/speed.py --out speed.json --artifacts output/demo-0.5 output/demo-0.3

Rows, each measured once and kept in --out:
    kernels SHAPE    microseconds of a product and the share of the memory bandwidth (see kernels.py)
    decode ARTIFACT  tokens per second beside the model in float16 and bfloat16: every token of one side is followed by
                     one of each other; the ratios are those of the medians
    decode random    the same for a random Llama of TinyLlama's shape, half of its weights removed at random
    profile ARTIFACT where a token's time goes: matrices, the rest of the compiled blocks, head, cache, Python, sampling
    llama.cpp FILE   tokens per second where llama-cpp-python is installed, for each --gguf
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
WARM_UP = 4  # tokens


def kernels(shape: str, options: argparse.Namespace) -> dict:
    import kernels as bench

    rows, columns = map(int, shape.split("x"))
    limit = bench.bandwidth(20)
    made = bench.ways(rows, columns, options.megabytes << 20, few=False)
    found = bench.measure(made, columns, options.rounds, 0.002)
    return {
        way.name: {"us": middle * 1e6, "low_us": low * 1e6, "of_bandwidth": way.nbytes / low / limit}
        for way in made
        for middle, low in [found[way.name]]
    }


def decode(sides: dict, options: argparse.Namespace) -> dict:
    """name -> model; milliseconds per token, the first side's over the others'."""
    import torch

    from lsprism.generation.decode import prefill, step
    from lsprism.generation.sampler import Sampler
    from lsprism.specs import GenerateSpec

    sampler, states = Sampler(GenerateSpec(greedy=True)), {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for name, model in sides.items():
        logits, cache = prefill(model, torch.arange(options.prompt)[None] + 100)
        states[name] = sampler.pick(logits), cache
    for turn in range(WARM_UP + options.tokens):
        for name, model in sides.items():
            token, cache = states[name]
            started = time.perf_counter()
            logits, cache = step(model, token, cache)
            token = sampler.pick(logits)
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - started) * 1000)
            states[name] = token, cache
    first, *others = sides
    middle = {name: statistics.median(of) for name, of in times.items()}
    low = {name: sorted(of)[len(of) // 10] for name, of in times.items()}
    return {
        "ms_per_token": middle,
        "low_ms_per_token": low,
        "tokens_per_s": {name: 1000 / ms for name, ms in middle.items()},
        "speedup_over": {name: middle[name] / middle[first] for name in others},
        "low_speedup_over": {name: low[name] / low[first] for name in others},
    }


def layer_bytes(model) -> dict:
    """Resident bytes of the compressed layers, and of the same ones dense."""
    from lsprism.layers.forms import nbytes
    from lsprism.layers.modules import PrismLinear

    forms = [module.form for module in model.modules() if isinstance(module, PrismLinear)]
    dense = sum(f.dense().nbytes for f in forms)
    held = sum(map(nbytes, forms))
    return {"layer_bytes": held, "layer_bytes_of_dense": held / dense}


def of_artifact(artifact: str, options: argparse.Namespace) -> dict:
    from lsprism import api

    sides = {"compressed": api.load(artifact).model}
    sides |= {f"{options.model} {dtype}": api.load(options.model, dtype=dtype).model for dtype in options.dtypes}
    return decode(sides, options) | layer_bytes(sides["compressed"])


def of_random(options: argparse.Namespace) -> dict:
    """TinyLlama's shape: 22 blocks of 2048, 5632 in the MLP, 32 heads, 4 of keys."""
    import torch

    from lsprism.models.fused import fuse

    sides = {"compressed": _random_llama(torch.bfloat16)}
    _prune(sides["compressed"])
    fuse(sides["compressed"])
    sides |= {f"dense {dtype}": _random_llama(getattr(torch, dtype)) for dtype in options.dtypes}
    return decode(sides, options) | layer_bytes(sides["compressed"])


def _random_llama(dtype):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
    torch.set_default_dtype(dtype)
    with no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=4)).eval()
    torch.set_default_dtype(torch.float32)
    some = torch.randn(1 << 20).to(dtype) * 0.02
    for parameter in model.requires_grad_(False).parameters():
        times = -(-parameter.numel() // some.numel())
        parameter.data.copy_(some.repeat(times)[: parameter.numel()].view_as(parameter))
        if parameter.dim() == 1:
            parameter.data.fill_(1)
    return model


def _prune(model) -> None:
    import torch
    from torch import nn

    from lsprism.layers.forms import Sparse
    from lsprism.layers.modules import DenseLinear, PrismLinear
    from lsprism.models.surgery import place

    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name == "lm_head":
            DenseLinear.adopt(module)
        elif type(module) is nn.Linear:
            places = torch.rand(module.weight.shape) < 0.5
            place(model, name, PrismLinear(Sparse.pack(module.weight.data, places)))


def profile(artifact: str, options: argparse.Namespace) -> dict:
    """Milliseconds of a token by part, medians; what is left over is the model's own Python around the blocks."""
    import torch

    from lsprism import api
    from lsprism.generation.decode import prefill, step
    from lsprism.generation.sampler import Sampler
    from lsprism.layers.kernels.cpu import Packed, PackedBlock
    from lsprism.layers.kernels.dispatch import kernels as native
    from lsprism.layers.modules import PrismLinear, product_of
    from lsprism.specs import GenerateSpec

    model, spent = api.load(artifact).model, {}
    logits, cache = prefill(model, torch.arange(options.prompt)[None] + 100)
    sampler, block = Sampler(GenerateSpec(greedy=True)), type(model.model.layers[0])
    layers = [product_of(m).packed for m in model.modules() if isinstance(m, PrismLinear)]
    inputs = [torch.randn(1, one.columns).to(one.dtype) for one in layers]
    rows = []
    for _ in range(WARM_UP + options.tokens):
        spent.clear()
        with torch.inference_mode(), timed(spent, "matrices of the blocks"):
            for one, x in zip(layers, inputs, strict=True):
                one.multiply(native(), x)
        around = [(PackedBlock, "begin"), (PackedBlock, "end"), (Packed, "multiply"), (type(cache), "update")]
        with watched(spent, [*around, (block, "forward")]), timed(spent, "all"):
            with timed(spent, "model"):
                logits, cache = step(model, 5, cache)
            with timed(spent, "sampling"):
                sampler.pick(logits)
        rows.append(dict(spent))
    ms = {part: statistics.median(row[part] for row in rows[WARM_UP:]) * 1000 for part in rows[0]}
    compiled = ms["begin"] + ms["end"]
    return {
        "matrices of the blocks, layer by layer": ms["matrices of the blocks"],
        "compiled blocks: matrices, attention, norms": compiled,
        "cache": ms["update"],
        "Python of the blocks": ms["forward"] - compiled - ms["update"],
        "output head": ms["multiply"],
        "model around the blocks": ms["model"] - ms["forward"] - ms["multiply"],
        "sampling": ms["sampling"],
        "all": ms["all"],
    }


@contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - started


@contextmanager
def watched(spent: dict[str, float], methods: list[tuple[type, str]]) -> Iterator[None]:
    """Inside, the time of these methods is added up under their names."""

    def timing(name: str, plain: Callable) -> Callable:
        def method(*args, **settings):
            with timed(spent, name):
                return plain(*args, **settings)

        return method

    plain = [(owner, name, getattr(owner, name)) for owner, name in methods]
    for owner, name, method in plain:
        setattr(owner, name, timing(name, method))
    try:
        yield
    finally:
        for owner, name, method in plain:
            setattr(owner, name, method)


def llama_cpp(path: str, options: argparse.Namespace) -> dict:
    try:
        from llama_cpp import Llama
    except ImportError:
        return {"skipped": "llama-cpp-python is not installed"}
    model = Llama(path, n_ctx=options.prompt + options.tokens + 8, n_threads=options.threads or None, verbose=False)
    model.eval(list(range(100, 100 + options.prompt)))
    times = []
    for _ in range(WARM_UP + options.tokens):
        started = time.perf_counter()
        model.eval([model.sample(temp=0)])
        times.append((time.perf_counter() - started) * 1000)
    middle = statistics.median(times[WARM_UP:])
    return {"ms_per_token": middle, "tokens_per_s": 1000 / middle}


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    for shape in options.shapes if "kernels" in options.parts else ():
        yield f"kernels {shape}", lambda shape=shape: kernels(shape, options)
    for artifact in options.artifacts:
        for part, measure in (("decode", of_artifact), ("profile", profile)):
            if part in options.parts:
                yield f"{part} {artifact}", lambda artifact=artifact, measure=measure: measure(artifact, options)
    if "random" in options.parts:
        yield "decode random", lambda: of_random(options)
    for path in options.gguf or ["no --gguf"]:
        if "llama.cpp" in options.parts:
            yield f"llama.cpp {path}", lambda path=path: llama_cpp(path, options)


def main() -> None:
    parts = ("kernels", "decode", "profile", "random", "llama.cpp")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", nargs="*", default=[], help="compressed models of --model")
    parser.add_argument("--model", default="demo", help="the baseline")
    parser.add_argument("--dtypes", nargs="*", default=["float16", "bfloat16"], help="of the baseline")
    parser.add_argument("--parts", nargs="*", default=parts, choices=parts)
    parser.add_argument("--gguf", nargs="*", default=[], help="files of --model for llama.cpp")
    parser.add_argument("--shapes", nargs="*", default=["576x576", "1536x576", "576x1536", "49152x576", "4096x4096"])
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="timed ones of each side")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--rounds", type=int, default=31, help="of the kernels")
    parser.add_argument("--megabytes", type=int, default=256, help="of matrices that a kernel reads in turn")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()

    import torch

    import lsprism.hf  # noqa: F401 - registers the format

    if options.threads:
        torch.set_num_threads(options.threads)
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, measure in wanted(options):
        key = f"{name}, {torch.get_num_threads()} threads"
        if key not in rows:
            rows[key] = measure() | {"load_of_the_machine": os.getloadavg()[0]}
            options.out.write_text(json.dumps(rows, indent=2))
        print(key, json.dumps(rows[key], indent=1), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
