"""Perplexity of a model compressed by several methods, under one protocol, one row at a time.

    python tests/bench/quality.py --calibration CALIBRATION.parquet --text TEST.parquet --out quality.json \\
        --rows dense,wanda:0.5,wanda:0.3,hybrid:0.5,hybrid:0.5+effort=best

A row is `dense`, `rtn:BITS` (every layer rounded to the nearest of so many bits) or
METHOD:SPARSITY[:PATTERN][+SETTING=VALUE...], where a setting is a field of CompressSpec. All are compressed with the
same windows (64 x 512 by default) and evaluated on the same ones: --windows windows of --context tokens of the text
from window --first on, exp(mean NLL) over predicted tokens. Rows that stand in --out already are not measured again;
with --keep the artifacts stay, and other windows are evaluated without compressing again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lsprism.models.load import LoadedModel

ROOT = Path(__file__).parents[2]


GROUP = 64  # neighbours in a row that share a scale and a zero


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """weight [rows, columns], each group rounded to the nearest of 2^bits even steps between its ends."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-12).half().float()
    zero = (-low / scale).round()
    steps = ((groups / scale).round() + zero).clamp(0, 2**bits - 1) - zero
    return (steps * scale).flatten(1).to(weight.dtype)


def round_to_nearest(model: str, bits: int, options: argparse.Namespace) -> dict:
    """The dense model with the layers that we would compress rounded instead: the rival at its own bytes."""
    from lsprism import api
    from lsprism.models.anatomy import dissect

    loaded = api.load(model)
    sites = dissect(loaded.model).sites
    for site in sites:
        linear = loaded.model.get_submodule(site.name)
        linear.weight.data.copy_(rounded(linear.weight.data, bits))
    count = sum(site.parameters for site in sites)
    dense = sum(p.nbytes for p in loaded.model.parameters())
    layers = count * bits / 8 + count / GROUP * (16 + bits) / 8
    layer_dense = count * loaded.dtype.itemsize
    return {
        **perplexity_of(model, options, loaded),
        "stored_bytes": round(dense - layer_dense + layers),
        "layer_bytes_of_dense": layers / layer_dense,
    }


def perplexity_of(model: str, options: argparse.Namespace, loaded: LoadedModel | None = None) -> dict:
    from lsprism import api
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation.perplexity import perplexity
    from lsprism.evaluation.windows import windows_of

    loaded = loaded or api.load(model)
    corpus = read_text(options.text, split="test")
    there = windows_of(loaded.tokenizer, corpus, options.context)
    taken = replace(there, tokens=there.tokens[options.first : options.first + options.windows])
    figure = perplexity(loaded.model, taken)
    return {
        "perplexity": figure.value,
        "text": figure.text,
        "context": figure.context,
        "first_window": options.first,
        "windows": figure.windows,
        "windows_there_are": figure.of,
        "dtype": str(loaded.dtype),
        "device": figure.device,
    }


def measure(row: str, options: argparse.Namespace) -> dict:
    from lsprism import api

    if row == "dense":
        return perplexity_of(options.model, options)
    if row.startswith("rtn:"):
        return round_to_nearest(options.model, int(row.removeprefix("rtn:")), options)
    what, *more = row.split("+")
    method, sparsity, *pattern = what.split(":", 2)
    calibration = {"source": options.calibration, "samples": options.samples, "length": options.length}
    settings = {"method": method, "sparsity": sparsity, "calibration": calibration}
    settings |= {"pattern": pattern[0]} if pattern else {}
    settings |= dict(setting.split("=") for setting in more)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        target = (options.keep or Path(work)) / row.replace(":", "-")
        report = api.compress(options.model, target, **settings, resume=True)
        measured = perplexity_of(str(target), options)
    return {
        **measured,
        "kept_parameters": report.kept_parameters,
        "stored_bytes": report.stored_bytes,
        "layer_bytes_of_dense": report.layer_stored_bytes / report.layer_dense_bytes,
        "compress_seconds": report.seconds,
        "calibration": f"{options.samples} x {options.length} of {report.calibration}",
    }


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
    parser.add_argument("--first", type=int, default=0, help="number of the first window, from 0")
    parser.add_argument("--work", type=Path, help="folder for the artifacts, which are deleted again")
    parser.add_argument("--keep", type=Path, help="folder where the artifacts stay")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for row in options.rows.split(","):
        key = f"{options.model} {row}"
        if key not in rows:
            started = time.monotonic()
            rows[key] = {**measure(row, options), "row_seconds": time.monotonic() - started}
            options.out.write_text(json.dumps(rows, indent=2))
        print(f"{key}: {rows[key]['perplexity']:.3f}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
