"""Events on standard error: lines, and on a terminal a progress bar below them."""

import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from lsprism import events as ev
from lsprism.units import format_duration

# Without a terminal, a progress line follows after this time without any line: at the start of a stage, and later.
FIRST_S = 10.0
QUIET_S = 30.0
TICK_S = 0.5
BLOCKWISE = ("compress", "measure")  # stages whose progress counts decoder blocks

# No markup or emoji: a path may contain '[/]' or ':x:'.
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_line(text: str, style: str = "", then: str = "") -> None:
    """Print a line to standard error: `text` in a style, then `then` in plain style. Only a terminal wraps it."""
    line = Text(text, style=style).append(then, style="not bold default")
    errors.print(line, soft_wrap=not errors.is_terminal)


class Display:
    """A context manager that shows events."""

    def __init__(self) -> None:
        self.moving = errors.is_terminal
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
            console=errors,
            transient=True,
            expand=True,
            disable=not self.moving,
        )
        self.task = self.bar.add_task("", total=None, state="")
        self.stage = ""
        self.started = 0.0  # of the stage; times are those of time.monotonic
        self.progress: ev.Progress | None = None  # the last one of the stage
        self.reached = 0.0  # its time
        self.due = 0.0  # time of the next progress line
        self.closed = threading.Event()

    def __enter__(self) -> "Display":
        self.bar.start()
        if not self.moving:
            threading.Thread(target=self._tick, daemon=True, name="lsprism-display").start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.closed.set()
        self.bar.stop()

    def show(self, event: ev.Event) -> None:
        match event:
            case ev.Stage(name=name, detail=detail):
                self.stage, self.progress = name, None
                self.started = time.monotonic()
                self.due = self.started + FIRST_S
                print_line(name, "bold", f"  {detail}")
                self.bar.remove_task(self.task)
                self.task = self.bar.add_task(name, total=None, state="")
            case ev.Notice(text=text):
                print_line(f"  {text}")
            case ev.Progress():
                self.progress, self.reached = event, time.monotonic()
                self.bar.update(self.task, total=1.0, completed=event.fraction, **self._format_event(event))
            case ev.BlockDone() if not self.moving:
                self.due = time.monotonic() + QUIET_S
                line = f"  block {event.block}/{event.of}  {event.seconds:.1f} s"
                print_line("  ".join(filter(None, (line, format_worst_layer(event), self._left()))))

    def _tick(self) -> None:
        """Without a terminal: print a progress line whenever one is due, whether or not there are events."""
        while not self.closed.wait(TICK_S):
            if self.stage and time.monotonic() >= self.due:
                self.due = time.monotonic() + QUIET_S
                print_line(f"  {self._line()}")

    def _line(self) -> str:
        event = self.progress
        if event is None:
            return f"{self.stage}: {format_duration(time.monotonic() - self.started)} so far"
        return "  ".join(filter(None, (f"{event.step} {self._count(event)}", f"{event.fraction:.0%}", self._left())))

    def _left(self) -> str:
        """The remaining time, less what has passed since it was estimated; empty if it is not known."""
        if self.progress is None or self.progress.eta_s is None:
            return ""
        left = self.progress.eta_s - (time.monotonic() - self.reached)
        return format_remaining(left) if left >= 0 else ""

    def _count(self, event: ev.Progress) -> str:
        return f"{'block ' if self.stage in BLOCKWISE else ''}{event.block}/{event.of}"

    def _format_event(self, event: ev.Progress) -> dict[str, Any]:
        state = f"{event.fraction:4.0%}  {event.step:<9}  {format_remaining(event.eta_s) or 'estimating time left'}"
        return {"description": f"{self.stage}  {self._count(event)}", "state": state}


def format_remaining(eta_s: float | None) -> str:
    """'1 h 05 min left', '2 min 10 s left', '9 s left'; empty if it is not known."""
    return "" if eta_s is None else f"{format_duration(eta_s)} left"


def format_worst_layer(event: ev.BlockDone) -> str:
    """The layer with the largest error; empty if none was compressed."""
    if not event.layers:
        return ""
    layer = max(event.layers, key=lambda layer: layer.error)
    return f"largest output error {layer.error:.1%} at {layer.name.rpartition('.')[2]}"
