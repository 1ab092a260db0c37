"""lsprism, or python -m lsprism: the command line."""

import sys

from lsprism.cli import main
from lsprism.cli.follow import STOPPED, leave


def run() -> int:
    """Carry out one command; its exit code."""
    code = main()
    if code == STOPPED:  # a thread may still be at work
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
