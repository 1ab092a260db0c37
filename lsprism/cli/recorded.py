"""Run a command: show its events and record them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from lsprism.cli.display import Display, say
from lsprism.events import Event
from lsprism.runs import Recording
from lsprism.runs.command import order_of


@contextmanager
def recorded(verb: str, spec: BaseModel) -> Iterator[Callable[[Event], None]]:
    """Open the display and the record of the run; yields the function that takes each event."""
    recording = Recording(order_of(verb, spec, "command line"), lambda text: say(f"  {text}"))
    with Display() as display, recording:

        def take(event: Event) -> None:
            recording.add(event)
            display.show(event)

        yield take
