"""Word perplexity compared with lm-eval's own on the same documents, which it gets as a local task.

    pip install 'lm-eval~=0.4.13'        # an optional extra: it adds packages and changes none of requirements.txt
    python tests/bench/word_perplexity.py --documents 3 --context 512 --out words.json

A document consists of --paragraphs paragraphs of the text. Both use the same model in memory, the same context, and no
BOS added by the tokenizer (lm-eval would read it twice). Exit code 1 if they differ by more than 0.1 %.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGREE = 1e-3  # relative


def split(text: str, options: argparse.Namespace) -> list[str]:
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    size = options.paragraphs
    return ["\n\n".join(paragraphs[n : n + size]) for n in range(0, len(paragraphs), size)]


def by_lm_eval(loaded, documents: list[str], context: int) -> float:
    """lm-eval's own loop and aggregation; the task is its `wikitext` with other documents and no detokenizer."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    def word_count(document: dict, results: list[float]) -> dict:
        return {"word_perplexity": (results[0], len(re.split(r"\s+", document["page"])))}

    with tempfile.TemporaryDirectory() as work:
        rows = Path(work) / "documents.jsonl"
        rows.write_text("\n".join(json.dumps({"page": text}) for text in documents))
        task = {
            "task": "local_documents",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "output_type": "loglikelihood_rolling",
            "test_split": "test",
            "doc_to_text": "",
            "doc_to_target": lambda document: document["page"],
            "process_results": word_count,
            "metric_list": [{"metric": "word_perplexity"}],
        }
        model = HFLM(
            pretrained=loaded.model, tokenizer=loaded.tokenizer, max_length=context, add_bos_token=False, batch_size=1
        )
        found = lm_eval.simple_evaluate(model=model, tasks=[task], bootstrap_iters=0)
    return found["results"]["local_documents"]["word_perplexity,none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default="embedded", help="text to evaluate on: wikitext2, embedded or a file")
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--paragraphs", type=int, default=12, help="paragraphs per document")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    from lsprism import api
    from lsprism.calibration.corpus import read_text
    from lsprism.evaluation import word_perplexity
    from lsprism.evaluation.progress import run_to_end

    loaded = api.load(options.model, dtype=options.dtype)
    corpus = read_text(options.text, split="test")
    there = split(corpus.text, options)
    texts = there[: options.documents]
    started = time.monotonic()
    figure = run_to_end(
        word_perplexity.stream_word_perplexity(
            loaded, word_perplexity.Documents(texts, corpus.name, len(there)), options.context
        )
    )
    halfway = time.monotonic()
    theirs = by_lm_eval(loaded, texts, options.context)
    row = {
        "ours": figure.value,
        "lm_eval": theirs,
        "relative_difference": abs(figure.value / theirs - 1),
        "protocol": figure.format_protocol(),
        "model": options.model,
        "our_seconds": halfway - started,
        "their_seconds": time.monotonic() - halfway,
    }
    print(json.dumps(row, indent=2))
    if options.out:
        options.out.write_text(json.dumps(row, indent=2))
    sys.exit(row["relative_difference"] > AGREE)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local
    sys.path.insert(0, str(ROOT))
    main()
