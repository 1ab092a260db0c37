"""Converts minutes to training steps by timing a few steps, once; the recipe stores the result."""

import time
from collections.abc import Callable

from lsprism.artifact.recipe import Recipe, TrainingKind
from lsprism.artifact.staging import Staging

TIMED = 3  # steps to time; the fastest counts, because the first one allocates memory


class StepBudget:
    """The step count of one kind of training, such as 'heal' for --heal-minutes and --heal-steps."""

    def __init__(self, kind: TrainingKind, recipe: Recipe, stage: Staging) -> None:
        self.kind = kind
        self.recipe = recipe
        self.stage = stage

    def resolve_steps(self, try_one: Callable[[], None], units: int = 1) -> int:
        """The steps that the options ask for, else as many as the minutes allow for each of `units`; at least 1.

        `try_one` does the work of one step without changing anything.
        """
        if steps := self.recipe.get_steps(self.kind):
            return steps
        seconds = 60 * (self.recipe.get_minutes(self.kind) or 0)
        steps = max(1, int(seconds / units / _measure_step(try_one)))
        self.recipe.set_steps(self.kind, steps)
        self.stage.store_recipe(self.recipe)
        return steps


def _measure_step(try_one: Callable[[], None]) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        try_one()
        times.append(time.perf_counter() - started)
    return min(times)
