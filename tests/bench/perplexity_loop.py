"""Perplexity of a whole text, compared with an independent plain loop over model(...).loss, one row per context.

    python tests/bench/perplexity_loop.py --text TEST.parquet --contexts 2048,512 --out loop.json

The loop shares nothing with LS-PRISM except the model folder: it reads, tokenizes and splits the text and sums the loss
by itself. Rows in --out are not measured again. Exit code 1 if a row differs by more than 0.5 %.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGREE = 0.005  # relative


def plain_text(path: str) -> str:
    if path == "embedded":
        return (ROOT / "assets" / "evaluation.txt").read_text(encoding="utf-8")
    if path.endswith(".parquet"):
        from pyarrow import parquet

        return "\n\n".join(parquet.read_table(path)["text"].to_pylist())
    return Path(path).read_text(encoding="utf-8")


def plain_loop(folder: Path, text: str, context: int, most: int | None) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    losses = []
    for begin in range(0, ids.shape[1] - context + 1, context)[:most]:
        window = ids[:, begin : begin + context]
        with torch.no_grad():
            losses.append(model(input_ids=window, labels=window).loss.item())
    return math.exp(sum(losses) / len(losses))


def ours(model: str, text: str, context: int, most: int | None) -> dict:
    from lsprism import api
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation.perplexity import compute_perplexity
    from lsprism.evaluation.windows import make_windows, select_first

    loaded = api.load(model)
    windows = make_windows(loaded.tokenizer, read_text(text, split="test"), context)
    figure = compute_perplexity(loaded.model, select_first(windows, most or windows.of))
    return {"protocol": figure.format_protocol(), "ours": figure.value}


def measure(options: argparse.Namespace, context: int) -> dict:
    from lsprism.models.source import resolve

    started = time.monotonic()
    row = ours(options.model, options.text, context, options.windows)
    halfway = time.monotonic()
    loop = plain_loop(resolve(options.model).folder, plain_text(options.text), context, options.windows)
    return {
        **row,
        "plain_loop": loop,
        "relative_difference": abs(row["ours"] / loop - 1),
        "our_seconds": halfway - started,
        "loop_seconds": time.monotonic() - halfway,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a dense model")
    parser.add_argument("--text", default="embedded", help="embedded, or a .parquet or .txt file")
    parser.add_argument("--contexts", default="2048")
    parser.add_argument("--windows", type=int, help="number of windows; all by default")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    for context in map(int, options.contexts.split(",")):
        key = f"{options.model} {options.text} {context} {options.windows or 'all'}"
        if key not in rows:
            rows[key] = measure(options, context)
            options.out.write_text(json.dumps(rows, indent=2))
        print(json.dumps({key: rows[key]}, indent=2), flush=True)
    sys.exit(any(row["relative_difference"] > AGREE for row in rows.values()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
