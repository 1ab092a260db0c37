"""lsprism, or python -m lsprism: the command line."""

import sys

from lsprism.cli import main
from lsprism.cli.worker_thread import STOPPED, exit_now


def run() -> int:
    """Run one command; returns its exit code."""
    code = main()
    if code == STOPPED:  # a worker thread may still be running
        exit_now(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
