"""One model, compressed by several methods under one protocol: a row each, and the table of them all.

    python tests/bench/quality.py --calibration CALIBRATION.parquet --text TEST.parquet --out quality.json \\
        --rows dense,wanda:0.5,wanda:0.3,hybrid:0.5,hybrid:0.5+effort=best

A row is `dense`, `rtn:BITS` (every layer rounded to the nearest of so many bits, in groups of 64) or
METHOD:SPARSITY[:PATTERN][+SETTING=VALUE...], where a setting is a field of CompressSpec; +without=PART leaves out a
part of hybrid: compensation (of the error of the layers before), refit (the last step) or global-mask (each row then
keeps as many values as the others); a rank_share of 1e-9 leaves out the factors. All rows use the same calibration
windows (64 x 512 tokens by default) and the same evaluation text: --windows windows of --context tokens from window
--first on, and all windows of the embedded text. Perplexity: exp(mean NLL) over predicted tokens; KL: of the dense
model's next-token distribution to the row's, mean over the same tokens. Seconds and peak memory are those of a child
process that compresses, including the measurements that an allocation rule needs and does not find in the cache;
memory is counted above that of a child that only imports.

Rows in --out are not measured again, and a row that was interrupted is resumed if --keep names a folder for the
artifacts. --table prints the rows in --out as markdown; --plot FILE draws the rows of all JSON files
in the folder of --out as SVG (see pareto.py). Both measure nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lsprism.evaluation.windows import Windows
    from lsprism.models.load import LoadedModel

ROOT = Path(__file__).parents[2]
GROUP = 64  # consecutive weights in a row that share a scale and a zero point
IMPORTS = "import lsprism.api; from lsprism.artifact.publish import read_peak_memory; print(read_peak_memory())"
COMPRESS = """
import sys, lsprism.api
{without}
from lsprism.specs import CompressSpec
spec = CompressSpec.model_validate_json(sys.argv[1])
print(lsprism.api.get_final_report(lsprism.api.stream_compress(spec), lsprism.CompressionReport).model_dump_json())
"""
WITHOUT = {
    "": "",
    "compensation": "from lsprism.methods.hybrid import Hybrid; Hybrid.anchor = 0.0",
    "refit": "from lsprism.methods import hybrid; hybrid.REFIT = hybrid.BEST_REFIT = 0, 0",
    "global-mask": "from lsprism.methods import admm, masks; admm.make_global_mask = masks.make_mask",
}


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """weight [rows, columns] with each group rounded to 2^bits evenly spaced values between its minimum and maximum."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-12).half().float()
    zero = (-low / scale).round()
    steps = ((groups / scale).round() + zero).clamp(0, 2**bits - 1) - zero
    return (steps * scale).flatten(1).to(weight.dtype)


def round_to_nearest(bits: int, options: argparse.Namespace) -> dict:
    """The dense model with round-to-nearest quantization of the layers that the other rows compress."""
    from lsprism import api
    from lsprism.models.structure import find_structure

    loaded = api.load(options.model)
    sites = find_structure(loaded.model).sites
    for site in sites:
        linear = loaded.model.get_submodule(site.name)
        linear.weight.data.copy_(rounded(linear.weight.data, bits))
    count = sum(site.parameters for site in sites)
    dense = sum(p.nbytes for p in loaded.model.parameters())
    layers = count * bits / 8 + count / GROUP * (16 + bits) / 8
    layer_dense = count * loaded.dtype.itemsize
    return {
        **figures_of(loaded, options),
        "stored_bytes": round(dense - layer_dense + layers),
        "layer_bytes_of_dense": layers / layer_dense,
    }


def compressed(row: str, options: argparse.Namespace) -> dict:
    from lsprism import api
    from lsprism.specs import CompressSpec

    what, *more = row.split("+")
    method, sparsity, *pattern = what.split(":", 2)
    calibration = {"source": options.calibration, "samples": options.samples, "length": options.length}
    settings = {"method": method, "sparsity": sparsity, "calibration": calibration, "resume": True}
    settings |= {"pattern": pattern[0]} if pattern else {}
    settings |= dict(setting.split("=") for setting in more)
    without = settings.pop("without", "")
    with tempfile.TemporaryDirectory() as work:
        target = (options.keep or Path(work)) / row.replace(":", "-")
        spec = CompressSpec(model_id=options.model, save_path=target, **settings)
        report = json.loads(child(COMPRESS.format(without=WITHOUT[without]), spec.model_dump_json()))
        measured = figures_of(api.load(str(target)), options)
    layers = report["layers"]
    return {
        **measured,
        "kept_of_layers": sum(s["kept"] for s in layers) / sum(s["rows"] * s["columns"] for s in layers),
        "kept_parameters": report["kept_parameters"],
        "stored_bytes": report["stored_bytes"],
        "layer_bytes_of_dense": sum(s["stored_bytes"] for s in layers) / sum(s["dense_bytes"] for s in layers),
        "compress_seconds": report["seconds"],
        "compress_peak_bytes": report["peak_memory_bytes"] - int(child(IMPORTS)),
        "calibration": f"{options.samples} x {options.length} tokens of {report['calibration']}",
    }


def child(code: str, *arguments: str) -> str:
    """Last line of the output of a child process."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the child process ended with code {done.returncode}")
    return done.stdout.splitlines()[-1]


@cache
def dense_model(model: str) -> LoadedModel:
    from lsprism import api

    return api.load(model)


def figures_of(loaded: LoadedModel, options: argparse.Namespace) -> dict:
    from lsprism.evaluation import agreement
    from lsprism.evaluation.perplexity import compute_perplexity
    from lsprism.evaluation.progress import run_to_end

    taken = windows_of(loaded, options.text, options)
    taken = replace(taken, tokens=taken.tokens[options.first : options.first + options.windows])
    figure = compute_perplexity(loaded.model, taken)
    other = compute_perplexity(loaded.model, windows_of(loaded, "embedded", options))
    return {
        "perplexity": figure.value,
        "kl": run_to_end(agreement.stream_agreement(dense_model(options.model), loaded, taken)).kl,
        "perplexity_embedded": other.value,
        "text": figure.text,
        "context": figure.context,
        "first_window": options.first,
        "windows": figure.windows,
        "windows_there_are": figure.of,
        "windows_embedded": other.windows,
        "dtype": figure.dtype,
        "device": figure.device,
    }


def windows_of(loaded: LoadedModel, text: str, options: argparse.Namespace) -> Windows:
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation.windows import make_windows

    return make_windows(loaded.tokenizer, read_text(text, split="test"), options.context)


def measure(row: str, options: argparse.Namespace) -> dict:
    if row == "dense":
        dense = dense_model(options.model)
        return {**figures_of(dense, options), "stored_bytes": sum(p.nbytes for p in dense.model.parameters())}
    if row.startswith("rtn:"):
        return round_to_nearest(int(row.removeprefix("rtn:")), options)
    return compressed(row, options)


def table(rows: dict[str, dict]) -> str:
    """Markdown table of the rows, with their protocol."""
    heads = "row", "layer density", "stored MB", "perplexity", "perplexity, embedded text", "KL", "seconds", "peak MB"
    protocols = {protocol(row) for row in rows.values()}
    calibrations = {row["calibration"] for row in rows.values() if "calibration" in row}
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, row in rows.items():
        cells = (
            f"`{name.split(' ', 1)[1]}`",
            f"{row['kept_of_layers']:.1%}" if "kept_of_layers" in row else "",
            f"{row['stored_bytes'] / 1e6:.1f}" if "stored_bytes" in row else "",
            f"{row['perplexity']:.2f}",
            f"{row['perplexity_embedded']:.2f}",
            f"{row['kl']:.3f}",
            f"{row['compress_seconds']:.0f}" if "compress_seconds" in row else "",
            f"{row['compress_peak_bytes'] / 1e6:.0f}" if "compress_peak_bytes" in row else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *sorted(protocols), "Calibrated on " + "; ".join(sorted(calibrations)) + "."])


def protocol(row: dict) -> str:
    first, last = row["first_window"] + 1, row["first_window"] + row["windows"]
    return (
        f"Perplexity and KL: windows {first} to {last} of {row['windows_there_are']}, {row['context']} tokens each, of "
        f"{row['text']}; embedded text: {row['windows_embedded']} windows; {row['dtype']} on {row['device']}."
    )


def chart(folder: Path) -> str:
    """SVG of the rows of all JSON files in `folder`."""
    import pareto

    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return pareto.chart({name.split(" ", 1)[1]: row for rows in found for name, row in rows.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", default="dense,wanda:0.5,wanda:0.3,hybrid:0.5,hybrid:0.3")
    parser.add_argument("--calibration", default="embedded", help="text to calibrate on, as for compress")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--text", default="embedded", help="text to evaluate on: wikitext2, embedded or a file")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="index of the first window, from 0")
    parser.add_argument("--keep", type=Path, help="folder to keep the artifacts in")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    parser.add_argument("--table", action="store_true", help="print the rows without measuring")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw all rows in the folder of --out")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.table:
        print(table(rows))
        return
    if options.plot:
        options.plot.write_text(chart(options.out.parent), encoding="utf-8")
        return
    for row in options.rows.split(","):
        key = f"{options.model} {row}"
        if key not in rows:
            started = time.monotonic()
            rows[key] = {**measure(row, options), "row_seconds": time.monotonic() - started}
            options.out.write_text(json.dumps(rows, indent=2) + "\n")
        print(f"{key}: {rows[key]['perplexity']:.3f}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
