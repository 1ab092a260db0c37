"""Time of a Wanda run compared with the forward passes that it needs, two per block, in one process.

    python tests/bench/walk_time.py --calibration CALIBRATION.parquet --repeats 2

Passes alone: every block of the dense model runs twice on the same hidden states. Whole run: `compress` from the first
block to the last, including shards and checkpoints. Interleaved (A B A B).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def passes_alone(model: str, options: argparse.Namespace) -> float:
    """Seconds for two forward passes of each block."""
    import torch

    from lsprism import api
    from lsprism.calibration.blockwise import capture_block_inputs
    from lsprism.calibration.corpus import cut_windows, read_text, tokenize
    from lsprism.models.structure import find_structure

    loaded = api.load(model)
    tokens = tokenize(loaded.tokenizer, read_text(options.calibration).text)
    picked = cut_windows(tokens, options.samples, options.length, seed=0)
    anatomy = find_structure(loaded.model)
    blocks = loaded.model.get_submodule(anatomy.blocks)
    walk = capture_block_inputs(loaded.model, blocks, picked, torch.device("cpu"))
    started = time.monotonic()
    with torch.no_grad():
        for index, block in enumerate(blocks):
            for _ in range(2):
                outputs = [c.run(block, h) for c, h in zip(walk.calls[index], walk.hidden, strict=True)]
            walk.hidden = outputs
    return time.monotonic() - started


def whole_run(model: str, options: argparse.Namespace) -> float:
    """Seconds from the first block to the last of a Wanda run at 0.5."""
    from lsprism import api
    from lsprism.events import BlockDone
    from lsprism.specs import CompressSpec

    calibration = {"source": options.calibration, "samples": options.samples, "length": options.length}
    with tempfile.TemporaryDirectory() as work:
        spec = CompressSpec(model_id=model, save_path=Path(work) / "out", method="wanda", calibration=calibration)
        return sum(event.seconds for event in api.stream_compress(spec) if isinstance(event, BlockDone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--calibration", default="embedded")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    alone, whole = [], []
    for _ in range(options.repeats):
        alone.append(passes_alone(options.model, options))
        whole.append(whole_run(options.model, options))
        print(f"passes alone {alone[-1]:.1f} s, whole run {whole[-1]:.1f} s", file=sys.stderr, flush=True)
    a, w = statistics.median(alone), statistics.median(whole)
    print(json.dumps({"passes_s": alone, "run_s": whole, "ratio": w / a}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
