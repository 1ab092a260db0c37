"""The progress of one block, from the fractions done of its steps."""

from collections.abc import Iterator

from lsprism.events import BlockClock, Event

# Approximate time of a step, relative to everything that is done with a block except reconstruction.
MEASURE_WEIGHT = 0.4
COMPRESS_WEIGHT = 0.2
ADVANCE_DENSE_WEIGHT = 0.1
RECONSTRUCT_WEIGHT = 1.0


class BlockProgress:
    """Turns the fractions done of a block's steps into the progress of the block."""

    def __init__(self, clock: BlockClock, *, reconstructs: bool) -> None:
        self.clock = clock
        self.done = 0.0
        self.total = 1 + RECONSTRUCT_WEIGHT * reconstructs

    def track(self, step: str, fractions: Iterator[float], *, weight: float) -> Iterator[Event]:
        """Yield a progress event for each of `fractions` of `step`, which takes `weight` of the block's time."""
        for fraction in fractions:
            yield self.clock.make_progress(step, min(1.0, (self.done + fraction * weight) / self.total))
        self.done += weight

    def track_last(self, step: str, fractions: Iterator[float]) -> Iterator[Event]:
        """As `track`, for the block's last step, which takes the time that is left."""
        yield from self.track(step, fractions, weight=self.total - self.done)
