"""Runs whose command is a few lines of Python instead of a compression."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from lsprism.runs import Run, RunRequest, RunStore, supervisor
from lsprism.runs.process import ProcessId

# A number that is no process: above what any kernel hands out.
NOBODY = ProcessId(pid=2**22 + 1, created=1.0)


def order(**changes) -> RunRequest:
    return RunRequest(**{"verb": "compress", "device": "cpu", "cwd": Path.cwd(), **changes})


def made(runs: RunStore, **changes) -> Run:
    """A run as its record would be: `changes` may be of the order and of the run."""
    mine = {name: changes.pop(name) for name in list(changes) if name in RunRequest.model_fields}
    run = runs.create(runs.create_id(), order(**mine))
    return runs.update(run.id, lambda run: run.replace(**changes)) if changes else run


def fake(script: str) -> tuple[str, ...]:
    """What carries out a run: it starts in a few milliseconds."""
    return (sys.executable, "-S", "-E", "-c", script)


@contextmanager
def kept(runs: RunStore, run: Run, script: str):
    """A keeper on a thread of ours; yields what asks it to stop, and is waited for."""
    asked = threading.Event()
    thread = threading.Thread(
        target=supervisor.run_supervised, args=(runs.get_folder(run.id), list(fake(script)), asked)
    )
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
