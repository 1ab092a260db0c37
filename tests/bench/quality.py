"""Perplexity of a model compressed by several methods, under one protocol, one row at a time.

    python tests/bench/quality.py --calibration CALIBRATION.parquet --text TEST.parquet --out quality.json \\
        --rows dense,wanda:0.5,wanda:0.3,hybrid:0.5,hybrid:0.5+effort=best

A row is `dense` or METHOD:SPARSITY[:PATTERN][+SETTING=VALUE...], where a setting is a field of CompressSpec. Every row
is compressed with the same windows (64 x 512 by default) and evaluated on the same ones: --windows windows of --context
tokens of the text from window --first on, exp(mean NLL) over predicted tokens. Rows that stand in --out already are not
measured again; with --keep the artifacts stay, and other windows are evaluated without compressing again.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]


def perplexity_of(model: str, options: argparse.Namespace) -> dict:
    from lsprism import api
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation.perplexity import perplexity
    from lsprism.evaluation.windows import windows_of

    loaded = api.load(model)
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
