"""Everything about the kernels for sparse layers on recent GPUs: first whether they are right, then how fast they are.

    python tests/bench/gpu_kernels.py --out gpu_kernels.json

Needs a CUDA device of sm_80 or later; takes at most --minutes (10). Stages, each written to --out when it is done:
    correct          the largest error of groups, factors, panels, token counts and dtypes, by the largest output
    replayed         the same for launches that a CUDA graph repeats with other inputs
    kernels SHAPE    microseconds of one product by each kernel, by density, dtype and tokens
    groups           of layers multiplied in one launch and one by one
    tuning           of other numbers of warps and of steps that are loaded ahead
    many             of 512 tokens: the unpacked matrix against the dense one
    decode 8B        milliseconds per token of a random Llama: dense, sparse, hybrid and 2:4

--table prints what stands in --out as markdown and measures nothing.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda:0")
SHAPES = ((14336, 4096), (4096, 4096), (4096, 14336), (1024, 4096))
DENSITIES = (0.5, 0.6, 0.7)
BARS = {  # ratio to dense that is to be reached: shape, way, tokens
    ("14336x4096", "0.5", 1): 1.4, ("4096x4096", "0.5", 1): 1.4, ("14336x4096", "0.7", 1): 1.15,
    ("4096x4096", "0.7", 1): 1.15, ("14336x4096", "0.5", 8): 1.1, ("4096x4096", "0.5", 8): 1.1,
}  # fmt: skip


def correct() -> dict:
    """Shapes of all kinds: one row, odd widths, panels, more blocks than octets, all densities."""
    from lsprism.packed.int8 import to_int8
    from lsprism.packed.kernels.measure_gpu import find_block_error, find_error, random_form

    groups = {
        "q, k, v with factors": [((512, 1000), 20), ((200, 1000), 0), ((64, 1000), 9)],
        "odd": [((37, 333), 5)],
        "one row": [((1, 64), 0)],
        "panels": [((1024, 14336), 60), ((256, 14336), 0)],
        "large": [((4096, 4096), 100)],
        "gate, up": [((14336, 4096), 30), ((14336, 4096), 30)],
    }
    found = {"norm, gate, residual, rotary": find_block_error(GPU)}
    for (name, members), dtype in itertools.product(groups.items(), (torch.bfloat16, torch.float16)):
        for density, tokens in ((0.5, 1), (0.5, 2), (0.7, 3), (0.5, 4), (0.1, 8), (1.0, 1)):
            if name == "gate, up" and (density != 0.5 or tokens == 2):
                continue
            forms = [random_form(shape, density, rank, GPU, dtype) for shape, rank in members]
            key = f"{name}, {str(dtype)[6:]}, density {density}, {tokens} tokens"
            found[key] = find_error(forms, tokens)
            found[f"{key}, int8"] = find_error([to_int8(form) for form in forms], tokens)
    return {"largest": max(found.values()), "errors": found}


def replayed() -> dict:
    """The counters of a launch must be as they were when it ends."""
    from lsprism.packed.kernels import gpu
    from lsprism.packed.kernels.group import build_group
    from lsprism.packed.kernels.measure_gpu import _exact, random_form

    form = random_form((1000, 5000), 0.5, 40, GPU)
    bias = torch.randn(1000, device=GPU).bfloat16()
    group = build_group([form], [bias], gpu.count_blocks(GPU), gpu.WARPS)
    worst = {}
    for tokens in (1, 8):
        x = torch.zeros(tokens, 5000, device=GPU).bfloat16()
        gpu.multiply_group(group, x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = gpu.multiply_group(group, x)[0]
        errors = []
        for _ in range(50):
            x.normal_()
            graph.replay()
            exact = _exact(form, bias, x)
            errors.append(float((y.double() - exact).abs().max() / exact.abs().max()))
        worst[tokens] = max(errors)
    return {"largest": max(worst.values()), "errors": worst}


def kernels(shape: tuple[int, int]) -> dict:
    from lsprism.packed.int8 import to_int8
    from lsprism.packed.kernels.measure_gpu import microseconds, products, random_form

    rows, columns = shape
    copies = max(2, min(16, (400 << 20) // (2 * rows * columns)))  # together larger than the cache
    rank = int(0.1 * 0.5 * rows * columns / (rows + columns))  # a tenth of the parameters kept, in factors
    forms = {f"{density}": [random_form(shape, density, 0, GPU) for _ in range(copies)] for density in DENSITIES}
    forms["0.5 int8"] = [to_int8(form) for form in forms["0.5"]]
    forms["hybrid 0.5"] = [random_form(shape, 0.45, rank, GPU) for _ in range(copies)]
    found = {}
    for tokens in (1, 2, 4, 8):
        x = torch.randn(tokens, columns, device=GPU).bfloat16()
        ways: dict[str, list[Callable[[], object]]] = {}
        for name, of in forms.items():
            made = [products(form, x) for form in of]
            ways |= {f"{name} {way}": [one[way] for one in made] for way in made[0] if way != "dense"}
            ways.setdefault("dense", [one["dense"] for one in made])
            if tokens > 1:
                ways = {key: calls for key, calls in ways.items() if not key.endswith("triton")}
        found[tokens] = microseconds(ways)
        del ways, made
        torch.cuda.empty_cache()
    return {"us": found, "copies": copies, "rank": rank}


def groups() -> dict:
    from lsprism.packed.kernels import gpu
    from lsprism.packed.kernels.group import build_group
    from lsprism.packed.kernels.measure_gpu import microseconds, random_form

    found = {}
    x = torch.randn(1, 4096, device=GPU).bfloat16()
    for name, rows in {"q, k, v": (4096, 1024, 1024), "gate, up": (14336, 14336)}.items():
        ways: dict[str, list[Callable[[], object]]] = {
            "dense, one launch": [],
            "dense": [],
            "one launch": [],
            "each": [],
        }
        for _ in range(3):
            forms = [random_form((n, 4096), 0.45, 60, GPU) for n in rows]
            dense = [form.to_dense() for form in forms]
            stacked = torch.cat(dense)
            one = build_group(forms, [None] * len(forms), gpu.count_blocks(GPU), gpu.WARPS)
            each = [build_group([form], [None], gpu.count_blocks(GPU), gpu.WARPS) for form in forms]
            ways["dense, one launch"].append(lambda w=stacked: F.linear(x, w))
            ways["dense"].append(lambda ws=dense: [F.linear(x, w) for w in ws])
            ways["one launch"].append(lambda g=one: gpu.multiply_group(g, x))
            ways["each"].append(lambda gs=each: [gpu.multiply_group(g, x) for g in gs])
        found[name] = microseconds(ways)
    return found


def tuning() -> dict:
    """The kernel is compiled for each; those that are in use are restored."""
    from lsprism.packed.kernels import gpu
    from lsprism.packed.kernels.measure_gpu import find_error, microseconds, products, random_form

    before, found = (gpu.WARPS, gpu.DEPTH), {}
    try:
        for rows, columns in SHAPES[:2]:
            forms = [random_form((rows, columns), 0.5, 0, GPU) for _ in range(4 if rows > 4096 else 8)]
            x = torch.randn(1, columns, device=GPU).bfloat16()
            for warps, depth in itertools.product((8, 12, 16), (2, 3, 4, 6)):
                gpu.WARPS, gpu.DEPTH = warps, depth
                gpu._kernel.cache_clear()
                if rows == 4096:
                    assert find_error(forms[:1], 1) < 0.01, (warps, depth)
                made = [products(form, x)["streams"] for form in forms]
                found[f"{rows}x{columns}, {warps} warps, {depth} steps"] = microseconds({"us": made})["us"]
    finally:
        gpu.WARPS, gpu.DEPTH = before
        gpu._kernel.cache_clear()
    return found


def many() -> dict:
    from lsprism.packed.kernels import cuda, gpu
    from lsprism.packed.kernels.group import build_group
    from lsprism.packed.kernels.measure_gpu import microseconds, random_form

    found = {}
    for rows, columns in SHAPES[:2]:
        form = random_form((rows, columns), 0.5, 0, GPU)
        group = build_group([form], [None], gpu.count_blocks(GPU), gpu.WARPS)
        packed, dense, x = (
            cuda.CudaPacked(form, None),
            form.to_dense(),
            torch.randn(512, columns, device=GPU).bfloat16(),
        )
        assert torch.equal(gpu.unpack_group(group), dense)
        ways = {
            "dense": lambda x=x, w=dense: F.linear(x, w), "unpacked": lambda g=group: gpu.unpack_group(g),
            "unpacked by Triton": lambda p=packed: p.unpack(),
        }  # fmt: skip
        found[f"{rows}x{columns}"] = microseconds({name: [way] for name, way in ways.items()})
    return found


def decode(shape: str, turns: int = 12) -> dict:
    """The product's own loop, which replays a recorded step."""
    from gpu import compressed, loop, random_llama

    from lsprism.evaluation.sizes import count_resident_bytes
    from lsprism.models.fused_decode import disable_fused_decode, enable_fused_decode

    made = {"dense": None, "sparse": (0,), "hybrid": (0.1,), "2:4": (0, True)}
    ms, held, sides = {}, {}, {}
    for name, how in made.items():
        model = random_llama(shape) if how is None else compressed(random_llama(shape), *how)
        enable_fused_decode(model)  # blocks of packed layers take few launches
        sides[name] = loop(model, recorded=True)
        sides[name]()  # packs and records
        disable_fused_decode(model)  # as the dense model: the model's own code, but groups of layers in one launch
        if how is not None:
            sides[f"{name}, own code"] = loop(model, recorded=True)
            sides[f"{name}, own code"]()
        held[name] = count_resident_bytes(type("Loaded", (), {"model": model}))
        torch.cuda.empty_cache()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, one in sides.items():
            seconds[name] += [one() for _ in range(4)]
    ms = {name: 1000 * statistics.median(of) for name, of in seconds.items()}
    return {"ms_per_token": ms, "resident_bytes": held}


def table(rows: dict) -> str:
    lines = ["| matrix, tokens | dense us | way | us | ratio | bar |", "| --- | ---: | --- | ---: | ---: | ---: |"]
    for key, row in rows.items():
        if key.startswith("kernels "):
            shape = key.partition(" ")[2]
            for tokens, us in row["us"].items():
                for way, took in us.items():
                    bar = BARS.get((shape, way.removesuffix(" streams"), int(tokens)), "")
                    cells = [
                        f"{shape}, {tokens}",
                        f"{us['dense']:.1f}",
                        way,
                        f"{took:.1f}",
                        f"{us['dense'] / took:.2f}x",
                    ]
                    lines.append(f"| {' | '.join(cells)} | {bar} |")
    for key, row in rows.items():
        if key.startswith("decode ") and "ms_per_token" in row:
            for way, ms in row["ms_per_token"].items():
                lines.append(f"| {key} | | {way} | {ms:.2f} ms | {row['ms_per_token']['dense'] / ms:.2f}x | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--minutes", type=float, default=9.5, help="no stage starts later than this")
    parser.add_argument("--table", action="store_true", help="print it, measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    started = time.monotonic()
    rows: dict = {
        "device": {"name": torch.cuda.get_device_name(GPU), "torch": torch.__version__, "cuda": torch.version.cuda},
    }
    stages: list[tuple[str, Callable[[], dict]]] = [("correct", correct), ("replayed", replayed)]
    stages += [(f"kernels {a}x{b}", lambda shape=(a, b): kernels(shape)) for a, b in SHAPES]
    stages += [("groups", groups), ("decode 8B", lambda: decode("8B")), ("tuning", tuning), ("many", many)]
    torch.cuda.set_device(GPU)
    torch.manual_seed(0)
    for name, stage in stages:
        if time.monotonic() - started > 60 * options.minutes:
            break
        begun = time.monotonic()
        try:
            with torch.inference_mode():
                rows[name] = stage()
        except Exception as error:  # the others may still tell something
            rows[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        rows[name]["seconds"] = time.monotonic() - begun
        options.out.write_text(json.dumps(rows, indent=1))
        print(name, json.dumps(rows[name])[:3000], flush=True)
        torch.cuda.empty_cache()
        if name in ("correct", "replayed") and not rows[name].get("largest", 1) < 0.01:
            sys.exit(f"{name}: the products are wrong; nothing is measured.")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    main()
