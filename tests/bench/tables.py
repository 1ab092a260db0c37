"""Writes the tables of assets/results/README.md and the chart of README.md again, from the reports in assets/results/.

    python tests/bench/tables.py

Each table stands in a block that begins with a mark and names the command that prints it. Run this after a report or
the wording of a protocol has changed. A few seconds.
"""

import re
import shlex
import subprocess
import sys
from glob import glob
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "assets/results/README.md"
BLOCK = re.compile(r"(<!-- \w+ -->)\n\n    ([^\n]+)\n\n.*?\n\n(<!-- end -->)", re.DOTALL)


def output(command: str) -> str:
    """What a command line prints that starts with `python`; * stands for file names, as in a shell."""
    words = [name for word in shlex.split(command)[1:] for name in (sorted(glob(word, root_dir=ROOT)) or [word])]
    run = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    text = BLOCK.sub(lambda block: f"{block[1]}\n\n    {block[2]}\n\n{output(block[2])}\n\n{block[3]}", text)
    DOCUMENT.write_text(text, encoding="utf-8")
    output("python tests/bench/quality.py --out assets/results/methods/demo.json --plot assets/pareto.svg")


if __name__ == "__main__":
    main()
