"""Progress events: all kinds of events that a command yields; the last one has the report."""

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lsprism.records.compression import CompressionReport, LayerReport, StatsReport
from lsprism.records.evaluation import EvalReport, SweepReport


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)


class Stage(_Event):
    """A new stage of the run starts."""

    kind: Literal["stage"] = "stage"
    name: str
    detail: str = ""


class Notice(_Event):
    """Something the user should know: a choice made automatically, a layer kept dense, a fallback."""

    kind: Literal["notice"] = "notice"
    text: str


class Progress(_Event):
    """Progress of the run. `block` counts from 1; `eta_s` is None while the remaining time is unknown."""

    kind: Literal["progress"] = "progress"
    step: str
    block: int
    of: int
    fraction: float
    elapsed_s: float
    eta_s: float | None = None


class BlockDone(_Event):
    """One block is compressed and written, with a checkpoint."""

    kind: Literal["block_done"] = "block_done"
    block: int
    of: int
    layers: list[LayerReport]
    seconds: float


class Finished(_Event):
    """The run is complete."""

    kind: Literal["finished"] = "finished"
    report: CompressionReport | StatsReport | EvalReport | SweepReport


Event = Annotated[Stage | Notice | Progress | BlockDone | Finished, Field(discriminator="kind")]


class BlockClock:
    """Estimates the remaining time from the mean of the blocks timed so far in this process.

    `predicted`: seconds per block, used before the first one is done; None: no estimate until then.
    `after`: predicted seconds of the work after the blocks.
    """

    def __init__(self, blocks: int, done: int = 0, predicted: float | None = None, after: float = 0.0) -> None:
        self.blocks, self.done = blocks, done
        self.predicted, self.after = predicted, after
        self.started = self.block_started = time.monotonic()
        self.timed: list[float] = []

    def make_progress(self, step: str, part: float) -> Progress:
        """A Progress event; `part` in [0, 1]: fraction of the current block that is done."""
        eta = None
        mean = sum(self.timed) / len(self.timed) if self.timed else self.predicted
        if mean is not None:
            inside = min(mean, time.monotonic() - self.block_started)
            eta = max(0.0, mean * (self.blocks - self.done) - inside) + self.after
        return Progress(
            step=step,
            block=min(self.done + 1, self.blocks),
            of=self.blocks,
            fraction=(self.done + part) / self.blocks,
            elapsed_s=time.monotonic() - self.started,
            eta_s=eta,
        )

    def next_block(self) -> float:
        """Count a finished block; return the seconds it took."""
        now = time.monotonic()
        self.timed.append(now - self.block_started)
        self.done, self.block_started = self.done + 1, now
        return self.timed[-1]
