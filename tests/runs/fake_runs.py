"""Runs whose command is a few lines of Python instead of a compression."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from lsprism.runs import Order, Run, Runs, keeper
from lsprism.runs.process import Process

# A number that is no process: above what any kernel hands out.
NOBODY = Process(pid=2**22 + 1, created=1.0)


def order(**changes) -> Order:
    return Order(**{"verb": "compress", "device": "cpu", "cwd": Path.cwd(), **changes})


def made(runs: Runs, **changes) -> Run:
    """A run as its record would be: `changes` may be of the order and of the run."""
    mine = {name: changes.pop(name) for name in list(changes) if name in Order.model_fields}
    run = runs.create(runs.new_id(), order(**mine))
    return runs.change(run.id, lambda run: run.but(**changes)) if changes else run


def fake(script: str) -> tuple[str, ...]:
    """What carries out a run: it starts in a few milliseconds."""
    return (sys.executable, "-S", "-E", "-c", script)


@contextmanager
def kept(runs: Runs, run: Run, script: str):
    """A keeper on a thread of ours; yields what asks it to stop, and is waited for."""
    asked = threading.Event()
    thread = threading.Thread(target=keeper.keep, args=(runs.path(run.id), list(fake(script)), asked))
    thread.start()
    try:
        yield asked
    finally:
        thread.join(20)
    assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
