"""Metrics are computed by generators that yield progress and return the result."""

from collections.abc import Generator, Iterator
from typing import TypeVar

from lsprism.events import BlockClock, Event, Progress

T = TypeVar("T")
Steps = Generator[Progress, None, T]
Part = Generator[Event, None, T]  # several metrics, with stages and notices between them


def track_items(step: str, items: Iterator[T], of: int) -> Steps[list[T]]:
    """Collect `of` items; yields progress (an item counts as a block) before the first and after each."""
    clock, taken = BlockClock(of), []
    yield clock.make_progress(step, 0)
    for item in items:
        taken.append(item)
        clock.next_block()
        yield clock.make_progress(step, 0)
    return taken


def run_to_end(steps: Steps[T]) -> T:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
