"""Converts minutes to training steps by timing a few steps, once; the recipe stores the result."""

import time
from collections.abc import Callable

from lsprism.artifact.staging import Staging

TIMED = 3  # steps to time; the fastest counts, because the first one allocates memory


class StepBudget:
    """The step count of one kind of training, such as 'heal' for --heal-minutes and --heal-steps."""

    def __init__(self, kind: str, recipe: dict, stage: Staging) -> None:
        self.kind, self.recipe, self.stage = kind, recipe, stage

    def resolve_steps(self, try_one: Callable[[], None], units: int = 1) -> int:
        """The steps that the options ask for, else as many as the minutes allow for each of `units`; at least 1.

        `try_one` does the work of one step without changing anything.
        """
        name = f"{self.kind}_steps"
        if not self.recipe[name]:
            seconds = 60 * self.recipe[f"{self.kind}_minutes"]
            self.recipe[name] = max(1, int(seconds / units / _measure_step(try_one)))
            self.stage.store_recipe(self.recipe)
        return self.recipe[name]


def _measure_step(try_one: Callable[[], None]) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        try_one()
        times.append(time.perf_counter() - started)
    return min(times)
