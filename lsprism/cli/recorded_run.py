"""Run a command: show its events and record them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from lsprism.cli.display import Display, print_line
from lsprism.events import Event
from lsprism.runs import RunRecorder
from lsprism.runs.argv import make_request


@contextmanager
def show_and_record(verb: str, spec: BaseModel) -> Iterator[Callable[[Event], None]]:
    """Open the display and the record of the run; yields the function that takes each event."""
    recording = RunRecorder(make_request(verb, spec, "command line"), lambda text: print_line(f"  {text}"))
    with Display() as display, recording:

        def handle_event(event: Event) -> None:
            recording.add(event)
            display.show(event)

        yield handle_event
