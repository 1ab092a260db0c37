"""Peak memory of perplexity over few and over many windows: it must not grow with the length of the text.

    python tests/bench/perplexity_memory.py --windows 10,100 --context 128 --out memory.json

Each row is VmHWM of a child process that evaluates the model, minus that of one that only imports the package. Rows in
--out are not measured again. Exit code 1 if the last row is more than --slack above the first.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HWM = "next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))"
IMPORTS = "import sys, lsprism.api as api; from lsprism.evaluation import perplexity, windows\n"
IDLE = f"{IMPORTS}print({HWM})"
MEASURE = f"""{IMPORTS}
from lsprism.calibration.corpus import read_text
model, text, context, count, batch = sys.argv[1:]
loaded = api.load(model)
there = windows.make_windows(loaded.tokenizer, read_text(text, split="test"), int(context))
figure = perplexity.compute_perplexity(loaded.model, windows.select_first(there, int(count)), int(batch))
assert figure.windows == int(count), f"the text has {{figure.of}} windows only"
print(figure.value, {HWM})
"""


def child(code: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default="embedded", help="wikitext2, embedded or a file")
    parser.add_argument("--windows", default="10,100")
    parser.add_argument("--context", type=int, default=96)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--slack", type=float, default=0.05, help="accepted relative increase")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else {}
    text = options.text if options.text in ("embedded", "wikitext2") else str(Path(options.text).absolute())
    idle, asked = None, []
    for windows in options.windows.split(","):
        key = f"{options.model} {options.text} {windows} x {options.context}, batch {options.batch}"
        if key not in rows:
            idle = idle or int(child(IDLE)[-1])
            value, peak = child(MEASURE, options.model, text, str(options.context), windows, str(options.batch))[-2:]
            rows[key] = {"peak_bytes": int(peak) - idle, "idle_bytes": idle, "perplexity": float(value)}
            options.out.write_text(json.dumps(rows, indent=2))
        asked.append(rows[key])
        print(json.dumps({key: rows[key]}, indent=2), flush=True)
    sys.exit(asked[-1]["peak_bytes"] > asked[0]["peak_bytes"] * (1 + options.slack))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
