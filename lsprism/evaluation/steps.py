"""A measure is an iterator: it yields how far it is and returns its figure, so that `yield from` gives both."""

from collections.abc import Generator, Iterator
from typing import TypeVar

from lsprism.events import BlockClock, Event, Progress

T = TypeVar("T")
Steps = Generator[Progress, None, T]
Part = Generator[Event, None, T]  # of several measures, with stages and notices between them


def counted(step: str, items: Iterator[T], of: int) -> Steps[list[T]]:
    """Take `of` items; progress (in which a block is an item) comes before the first and after each."""
    clock, taken = BlockClock(of), []
    yield clock.progress(step, 0)
    for item in items:
        taken.append(item)
        clock.block_done()
        yield clock.progress(step, 0)
    return taken


def finished(steps: Steps[T]) -> T:
    """Run a measure to its end, progress unseen."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
