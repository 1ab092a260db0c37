"""Speed of sparse layers on a CUDA device; ratios are measured interleaved (A B A B) in one process.

    python tests/bench/gpu.py --out card.json

Rows, each measured once and stored in --out:
    kernels SHAPE    microseconds per product with a matrix [out x in], for one token and for --many tokens: dense
                     bfloat16 in PyTorch, bitmap at 50 % (bfloat16 and int8 values), and 2:4. Variants are interleaved;
                     each cycles through copies that exceed the cache, as a CUDA graph, so that launches are not timed
    decode SHAPE     milliseconds per token of a random Llama: dense; 50 % unstructured; with low-rank factors (rank
                     share 0.1) in the same budget; and 2:4. Each by LS-PRISM's decode loop, which replays a CUDA
                     graph, and by the model's own code called from Python
    compress SHAPE   seconds per block when compressing random blocks, and the device's peak memory next to the estimate

--table prints the rows in --out as Markdown, without measuring.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
KERNELS = ("4096x4096", "14336x4096", "4096x14336", "1024x4096", "2048x2048", "1536x576")
MODELS = {  # hidden size, MLP size, blocks, heads, key-value heads, vocabulary
    "1.1B": (2048, 5632, 22, 32, 4, 32000),  # TinyLlama's
    "8B": (4096, 14336, 32, 32, 8, 128256),  # Llama-3.1-8B's
}
CARD = "cuda:0"
COMPRESS = """
import json, sys, time, torch, lsprism.api as api
from lsprism.specs import CompressSpec
spec, done = CompressSpec.model_validate_json(sys.argv[1]), []
expected = api.plan_from_spec(spec).memory.on_device
for event in api.stream_compress(spec):
    if event.kind == "block_done":
        done.append(time.time())
print(json.dumps({"seconds_per_block": [b - a for a, b in zip(done, done[1:])], "expected_bytes": expected,
                  "peak_bytes": torch.cuda.max_memory_allocated()}))
"""

Way = tuple[list[Callable[[], object]], int]  # one call per copy of the matrix, and the bytes that each reads


def graph_of(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def microseconds(ways: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Microseconds per call of each variant: the median of interleaved rounds."""
    graphs = {name: graph_of(calls) for name, calls in ways.items()}
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


def half_of(weight: torch.Tensor, pattern: bool) -> object:
    """Sparse: a random half of the entries, unstructured or 2:4, with the values as a parameter."""
    from lsprism.packed.formats import Sparse

    score = torch.rand_like(weight, dtype=torch.float32).unflatten(1, (-1, 4 if pattern else weight.shape[1]))
    places = score.topk(score.shape[2] // 2).indices
    mask = torch.zeros_like(score, dtype=torch.bool).scatter_(2, places, True).flatten(1)
    form = Sparse.pack(weight, mask)
    return Sparse(torch.nn.Parameter(form.values, requires_grad=False), form.bitmap, form.columns)


def kernels(shape: str, options: argparse.Namespace) -> dict:
    from lsprism.packed.formats import Dense, count_bytes
    from lsprism.packed.int8 import to_int8
    from lsprism.packed.kernels.dispatch import PreparedMatmul

    rows, columns = map(int, shape.split("x"))
    count = max(2, min(40, (options.megabytes << 20) // (2 * rows * columns)))
    weights = [torch.randn(rows, columns, device=CARD).bfloat16() for _ in range(count)]
    forms = {
        "dense": [Dense(w) for w in weights],
        "bitmap": [half_of(w, pattern=False) for w in weights],
        "int8": [to_int8(half_of(w, pattern=False)) for w in weights],
        "2:4": [half_of(w, pattern=True) for w in weights],
    }
    products = {name: [PreparedMatmul(form, None) for form in of] for name, of in forms.items()}
    us = {}
    with torch.inference_mode():
        for tokens in (1, *options.many):
            x = torch.randn(1, tokens, columns, device=CARD).bfloat16()
            ways = {name: [lambda p=p, x=x: p(x) for p in of] for name, of in products.items()}
            us[tokens] = microseconds(ways, options.rounds)
    read = {name: count_bytes(of[0]) / us[1][name] / 1e6 for name, of in forms.items()}
    return {"us": us, "terabytes_per_s": read, "copies": count}


def random_llama(shape: str) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner, blocks, heads, keys, vocabulary = MODELS[shape]
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=blocks, num_attention_heads=heads,
        num_key_value_heads=keys, vocab_size=vocabulary, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(CARD):
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    return model


def compressed(model: torch.nn.Module, rank_share: float, pattern: bool = False) -> torch.nn.Module:
    """Keep half of the block parameters, unstructured with `rank_share` of them in low-rank factors, or 2:4."""
    from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
    from lsprism.packed.modules import PrismLinear

    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and name != "lm_head":
            weight = module.weight.data
            rows, columns = weight.shape
            rank = int(rank_share * 0.5 * weight.numel() / (rows + columns))
            kept = 0.5 - rank * (rows + columns) / weight.numel()
            anywhere = torch.rand_like(weight, dtype=torch.float32) < kept
            form = half_of(weight, pattern=True) if pattern else Sparse.pack(weight, anywhere)
            if rank:
                left, right = torch.randn(rows, rank, device=CARD), torch.randn(rank, columns, device=CARD)
                form = SparseLowRank(form, LowRank(left.bfloat16() * 0.01, right.bfloat16() * 0.01))
            model.set_submodule(name, PrismLinear(form))
    return model


def loop(model: torch.nn.Module, recorded: bool) -> Callable[[], float]:
    """A function that decodes one more token after a prompt of 128 tokens and returns its seconds."""
    from lsprism.generation import decode

    logits, cache = decode.prefill(model, torch.arange(128, device=CARD)[None])
    token = int(logits.argmax())

    def one() -> float:
        nonlocal cache, token
        started = time.perf_counter()
        if recorded:
            logits, cache = decode.decode_step(model, token, cache)
        else:
            logits, cache = decode._forward(model, torch.tensor([[token]], device=CARD), cache)
        token = int(logits.argmax())
        return time.perf_counter() - started

    return one


def decode(shape: str, options: argparse.Namespace) -> dict:
    made = {"dense": None, "sparse": (0,), "sparse + low-rank": (0.1,), "2:4": (0, True)}
    sides, held = {}, {}
    for name, how in made.items():
        before = torch.cuda.memory_allocated()
        model = random_llama(shape) if how is None else compressed(random_llama(shape), *how)
        sides |= {name: loop(model, recorded=True), f"{name}, called": loop(model, recorded=False)}
        held[name] = torch.cuda.memory_allocated() - before
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns + 1):  # the first one records the graph and warms up
        for name, one in sides.items():
            for _ in range(4):
                took = one()
            if turn:
                seconds[name].append(took)
    return {"ms_per_token": {n: 1000 * statistics.median(s) for n, s in seconds.items()}, "bytes_with_cache": held}


def compress(shape: str, options: argparse.Namespace) -> dict:
    from lsprism.specs import CompressSpec

    found = {}
    with tempfile.TemporaryDirectory() as work:
        random_folder(shape, Path(work) / "model", options)
        for method in options.methods:
            spec = CompressSpec(
                model_id=f"{work}/model", save_path=f"{work}/{method}", method=method, sparsity=0.5,
                calibration={"source": "embedded"},
            )  # fmt: skip
            command = [sys.executable, "-c", COMPRESS, spec.model_dump_json()]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            found[method] = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr[-500:]
    return found


def random_folder(shape: str, folder: Path, options: argparse.Namespace) -> None:
    """A random model of the shape with --blocks blocks and the tokenizer of --tokenizer."""
    import shutil

    width, inner, _, heads, keys, vocabulary = MODELS[shape]
    MODELS[shape] = width, inner, options.blocks, heads, keys, vocabulary
    random_llama(shape).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(options.tokenizer / name, folder / name)


def table(rows: dict) -> str:
    ways = ["dense", "bitmap", "int8", "2:4"]
    lines = ["| matrix, tokens | dense | 50 % | 50 %, int8 | 2:4 |", "| --- | ---: | ---: | ---: | ---: |"]
    for key, row in rows.items():
        if key.startswith("kernels "):
            for tokens, us in row["us"].items():
                cells = [f"{us[way]:.1f} ({us['dense'] / us[way]:.2f}x)" for way in ways]
                lines.append(f"| {key.partition(' ')[2]}, {tokens} | " + " | ".join(cells) + " |")
    lines += ["", "| model | ms per token | called from Python | memory GB |", "| --- | ---: | ---: | ---: |"]
    for key, row in rows.items():
        if key.startswith("decode "):
            ms = row["ms_per_token"]
            for way, held in row["bytes_with_cache"].items():
                ratio, called = ms["dense"] / ms[way], ms[f"{way}, called"]
                cells = [f"{ms[way]:.2f} ({ratio:.2f}x)", f"{called:.1f}", f"{held / 1e9:.2f}"]
                lines.append(f"| {key.partition(' ')[2]} {way} | " + " | ".join(cells) + " |")
    device = rows["device"]
    what = "Microseconds per product (speed relative to dense)"
    return "\n".join([*lines, "", f"{what}; {device['name']}, PyTorch {device['torch']}, bfloat16."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="*", default=KERNELS, help="OUTxIN")
    parser.add_argument("--many", nargs="*", type=int, default=[512, 2048], help="numbers of tokens per product")
    parser.add_argument("--decode", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--compress", nargs="*", default=[], choices=MODELS)
    parser.add_argument("--methods", nargs="*", default=["wanda", "sparsegpt", "hybrid"])
    parser.add_argument("--blocks", type=int, default=3, help="blocks of the model for --compress")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer, for --compress")
    parser.add_argument("--megabytes", type=int, default=400, help="total size of the dense matrices of a kernel")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--table", action="store_true", help="print the rows without measuring")
    options = parser.parse_args()
    if options.compress and not options.tokenizer:
        parser.error("--compress needs --tokenizer")
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.table:
        print(table(rows))
        return
    rows["device"] = {"name": torch.cuda.get_device_name(), "torch": torch.__version__}
    jobs = [(f"kernels {shape}", kernels, shape) for shape in options.kernels]
    jobs += [(f"decode {shape}", decode, shape) for shape in options.decode]
    jobs += [(f"compress {shape}", compress, shape) for shape in options.compress]
    for key, measure, shape in jobs:
        if key not in rows:
            rows[key] = measure(shape, options)
            options.out.write_text(json.dumps(rows, indent=1))
            torch.cuda.empty_cache()
        print(key, json.dumps(rows[key]), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
