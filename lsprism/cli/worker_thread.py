"""Runs a stream of events in a worker thread, so that Ctrl-C also works during a long matrix operation.

The files on disk are valid at any moment, so that a run can be interrupted anywhere.
"""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import psutil

from lsprism import events as ev
from lsprism.cli.display import errors

STOPPED = 130  # exit code
PATIENCE_S = 1.0  # for the worker to reach its next event after a stop request

Work = Callable[[], Generator[ev.Event, None, Any] | Iterator[ev.Event]]


@dataclass(frozen=True)
class _WorkerDone:
    """The worker has finished: with the return value of its generator, or with an exception."""

    value: Any = None
    error: BaseException | None = None


Box = queue.SimpleQueue[ev.Event | _WorkerDone]


def show_events(work: Work, show: Callable[[ev.Event], None]) -> Any:
    """Show every event; return the report of the last one, or the return value of the generator.

    Exceptions of the work are raised here. KeyboardInterrupt: the work was asked to stop and given PATIENCE_S for it.
    """
    box: Box = queue.SimpleQueue()
    stop = threading.Event()
    thread = threading.Thread(target=_run_worker, args=(work, box, stop), daemon=True, name="lsprism-work")
    thread.start()
    try:
        return _process_queue(box, show)
    except KeyboardInterrupt:
        stop.set()
        thread.join(PATIENCE_S)
        raise


def _run_worker(work: Work, box: Box, stop: threading.Event) -> None:
    try:
        stream = work()
        while not stop.is_set():
            box.put(next(stream))
        if isinstance(stream, Generator):
            stream.close()
    except StopIteration as done:
        box.put(_WorkerDone(done.value))
    except BaseException as error:  # passed to the main thread, which raises it
        box.put(_WorkerDone(error=error))


def _process_queue(box: Box, show: Callable[[ev.Event], None]) -> Any:
    report = None
    while not isinstance(item := _next(box), _WorkerDone):
        show(item)
        report = getattr(item, "report", report)
    if item.error is not None:
        raise item.error
    return report if item.value is None else item.value


def _next(box: Box) -> ev.Event | _WorkerDone:
    while True:
        try:
            return box.get(timeout=0.2)  # Windows handles signals only between two waits
        except queue.Empty:
            continue


@contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Inside, Ctrl-C or SIGTERM raises KeyboardInterrupt; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    asked = threading.Event()

    def stop(*_: object) -> None:
        if asked.is_set():
            exit_now(STOPPED)
        asked.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_now(code: int) -> NoReturn:
    """End the process and its children (a download) now, even if a thread is in a call that cannot be interrupted."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue  # it has already ended
    errors.show_cursor(True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue  # its reader is gone
    os._exit(code)
