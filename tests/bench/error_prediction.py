"""Accuracy of the layer errors that `inspect` predicts, against those of a real compression.

    python tests/bench/error_prediction.py --methods wanda,sparsegpt --ways runs,curves --out predicted.json

For each method the model is compressed uniformly to --sparsity. `runs`: predictions from finished compressions to
--known; `curves`: from the pass of --allocation error-curves. Reported: |predicted - actual| / actual over the
layers. Rows in --out are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsprism.specs import CompressSpec

ROOT = Path(__file__).parents[2]


def settings_of(method: str, options: argparse.Namespace) -> dict:
    calibration = {"source": options.calibration, "samples": options.samples, "length": options.length}
    return {"method": method, "calibration": calibration}


def foretell(method: str, way: str, work: Path, options: argparse.Namespace) -> dict:
    """The predicted error of each layer, and the seconds for measuring and predicting."""
    from lsprism import api
    from lsprism.specs import CompressSpec, validate

    os.environ["LSPRISM_TRAITS"] = str(work / f"traits-{way}")
    asked = settings_of(method, options)
    started = time.monotonic()
    if way == "runs":
        for sparsity in options.known.split(","):
            api.compress(options.model, work / f"{way}-{sparsity}", sparsity=sparsity, **asked)
    else:
        measure(
            validate(CompressSpec, model_id=options.model, save_path=work / way, allocation="error-curves", **asked)
        )
    learnt = time.monotonic()
    plan = api.inspect(options.model, sparsity=options.sparsity, **asked)
    return {
        "errors": {p.site.name: p.error for p in plan.sites},
        "learning_s": learnt - started,
        "inspect_s": time.monotonic() - learnt,
    }


def measure(spec: CompressSpec) -> None:
    """Run only the pass that the allocation needs, without the compression."""
    from lsprism import api

    with closing(api.stream_compress(spec)) as events:
        next(event for event in events if event.kind == "stage" and event.name == "calibrate")


def compared(predicted: dict, reached: dict[str, float]) -> dict:
    errors = predicted.pop("errors")
    off = {name: abs(errors[name] - reached[name]) / reached[name] for name in reached}
    worst = max(off, key=off.__getitem__)
    return {
        **predicted,
        "mean_reached": fmean(reached.values()),
        "mean_predicted": fmean(errors.values()),
        "median_off": median(off.values()),
        "within_10_percent": sum(value <= 0.1 for value in off.values()) / len(off),
        "worst_off": off[worst],
        "worst": worst,
        "layers": {name: [errors[name], reached[name]] for name in reached},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--methods", default="wanda,sparsegpt,hybrid")
    parser.add_argument("--ways", default="runs,curves")
    parser.add_argument("--sparsity", type=float, default=0.5, help="sparsity to predict")
    parser.add_argument("--known", default="0.4,0.6", help="sparsities of the finished runs")
    parser.add_argument("--calibration", default="embedded", help="text to calibrate on, as for compress")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    from lsprism import api

    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for method in options.methods.split(","):
        ways = [way for way in options.ways.split(",") if f"{method} {way}" not in rows]
        if not ways:
            continue
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            os.environ["LSPRISM_TRAITS"] = str(work / "traits")
            asked = settings_of(method, options)
            report = api.compress(options.model, work / "reached", sparsity=options.sparsity, **asked)
            reached = {layer.name: layer.error for layer in report.layers}
            for way in ways:
                rows[f"{method} {way}"] = compared(foretell(method, way, work, options), reached)
                options.out.write_text(json.dumps(rows, indent=2))
    for name, row in rows.items():
        print(
            f"{name}: mean {row['mean_predicted']:.4f} predicted, {row['mean_reached']:.4f} actual; median error"
            f" {row['median_off']:.1%}, largest {row['worst_off']:.1%} ({row['worst']}), within 10 %:"
            f" {row['within_10_percent']:.0%}; inspect {row['inspect_s']:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
