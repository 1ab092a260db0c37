"""Runs a stream of events on a thread of its own, so that Ctrl-C is heard during a long matrix operation too."""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lsprism import events as ev

PATIENCE_S = 1.5  # from Ctrl-C to the end, whatever the worker does; what is on disk is whole at any moment

errors = Console(stderr=True, highlight=False)


def follow(work: Callable[[], Iterator[ev.Event]], show: Callable[[ev.Event], None]) -> Any:
    """Show every event; return the report of the last one. KeyboardInterrupt once the work has been stopped."""
    box: queue.SimpleQueue[ev.Event | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def worker() -> None:
        stream = work()
        try:
            for event in stream:
                box.put(event)
                if stop.is_set():
                    break
            stream.close()
            box.put(None)
        except BaseException as error:  # handed to the main thread, which raises it
            box.put(error)

    previous = signal.signal(signal.SIGTERM, _interrupt)
    thread = threading.Thread(target=worker, daemon=True, name="lsprism-work")
    thread.start()
    try:
        return _drain(box, show)
    except KeyboardInterrupt:
        stop.set()
        thread.join(PATIENCE_S)
        if thread.is_alive():
            _leave_now()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _drain(box: queue.SimpleQueue, show: Callable[[ev.Event], None]) -> Any:
    report = None
    while (item := _next(box)) is not None:
        if isinstance(item, BaseException):
            raise item
        show(item)
        report = getattr(item, "report", report)
    return report


def _next(box: queue.SimpleQueue) -> Any:
    while True:
        try:
            return box.get(timeout=0.2)  # short, so that signals are handled
        except queue.Empty:
            continue


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _leave_now() -> None:
    """The worker sits in an operation that cannot be interrupted: end the process; the checkpoint stands."""
    errors.print(STOPPED)
    sys.stdout.flush()
    os._exit(130)


STOPPED = "Stopped. The same command with --resume goes on where it was."


class Display:
    """Events as lines and a bar on standard error."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("block {task.fields[block]}/{task.fields[of]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[step]}  {task.fields[left]}"),
            console=errors,
            transient=True,
        )
        self.task: Any = None

    def __enter__(self) -> "Display":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def show(self, event: ev.Event) -> None:
        match event:
            case ev.Stage(name=name, detail=detail):
                errors.print(f"[bold]{name}[/bold] {detail}")
            case ev.Notice(text=text):
                errors.print(f"  {text}")
            case ev.Progress():
                self._advance(event)
            case ev.BlockDone() if not errors.is_terminal:
                errors.print(f"  block {event.block}/{event.of}  {event.seconds:.1f} s  {worst(event)}")

    def _advance(self, event: ev.Progress) -> None:
        fields = {"block": event.block, "of": event.of, "step": event.step, "left": remaining(event.eta_s)}
        if self.task is None:
            self.task = self.bar.add_task("", total=1.0, **fields)
        self.bar.update(self.task, completed=event.fraction, **fields)


def remaining(eta_s: float | None) -> str:
    if eta_s is None:
        return "time left: once one block is done"
    minutes, seconds = divmod(round(eta_s), 60)
    return f"{minutes} min {seconds:02d} s left" if minutes else f"{seconds} s left"


def worst(event: ev.BlockDone) -> str:
    if not event.layers:
        return ""
    layer = max(event.layers, key=lambda layer: layer.error)
    return f"largest output error {layer.error:.1%} at {layer.name.rpartition('.')[2]}"
