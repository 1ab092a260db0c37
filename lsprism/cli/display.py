"""Events on standard error: lines that stay, and below them, on a terminal, a bar that moves."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from lsprism import events as ev
from lsprism.units import duration

# Where there is no bar, a line says how far the work is: the first one after FIRST_S of a stage.
FIRST_S, QUIET_S = 10, 30

# Without markup and emoji: a path may hold '[/]' or ':x:'.
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "", then: str = "") -> None:
    """One line on standard error: `text` in a style, then plain words. Only a terminal has a width to break it at."""
    line = Text(text, style=style).append(then, style="not bold default")
    errors.print(line, soft_wrap=not errors.is_terminal)


class Display:
    """A `with` that shows events."""

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
        self.left = ""
        self.due = 0.0  # when the next line is, on the clock time.monotonic

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def show(self, event: ev.Event) -> None:
        match event:
            case ev.Stage(name=name, detail=detail):
                self.stage, self.due = name, time.monotonic() + FIRST_S
                say(name, "bold", f"  {detail}")
                self.bar.remove_task(self.task)
                self.task = self.bar.add_task(name, total=None, state="")
            case ev.Notice(text=text):
                say(f"  {text}")
            case ev.Progress():
                self.left = remaining(event.eta_s)
                self.bar.update(self.task, total=1.0, completed=event.fraction, **self._words(event))
                if not self.moving and time.monotonic() >= self.due:
                    self.due = time.monotonic() + QUIET_S
                    line = f"  {event.step} {event.block}/{event.of}  {event.fraction:.0%}"
                    say("  ".join(part for part in (line, self.left) if part))
            case ev.BlockDone() if not self.moving:
                self.due = time.monotonic() + QUIET_S
                line = f"  block {event.block}/{event.of}  {event.seconds:.1f} s"
                say("  ".join(part for part in (line, worst(event), self.left) if part))

    def _words(self, event: ev.Progress) -> dict[str, str]:
        unit = "block " if self.stage == "compress" else ""
        state = f"{event.fraction:4.0%}  {event.step:<9}  {self.left or 'time left: after this one'}"
        return {"description": f"{self.stage}  {unit}{event.block}/{event.of}", "state": state}


def remaining(eta_s: float | None) -> str:
    """'1 h 05 min left', '2 min 10 s left', '9 s left'; empty while it is unknown."""
    return "" if eta_s is None else f"{duration(eta_s)} left"


def worst(event: ev.BlockDone) -> str:
    """The layer that suffered most; nothing where none was compressed."""
    if not event.layers:
        return ""
    layer = max(event.layers, key=lambda layer: layer.error)
    return f"largest output error {layer.error:.1%} at {layer.name.rpartition('.')[2]}"
