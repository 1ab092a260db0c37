"""Minutes become steps: by a sample that is timed and forgotten, once only, for the recipe keeps what came of it."""

import time
from collections.abc import Callable

from lsprism.artifact.staging import Staging

TIMED = 3  # steps of a sample, of which the fastest counts: the first one allocates


class Timing:
    """The steps that one kind of learning takes, such as 'heal' for --heal-minutes and --heal-steps."""

    def __init__(self, kind: str, recipe: dict, stage: Staging) -> None:
        self.kind, self.recipe, self.stage = kind, recipe, stage

    def steps(self, try_one: Callable[[], None], units: int = 1) -> int:
        """As asked, or as many as the minutes allow for each of `units`; at least 1.

        `try_one` does the work of a step and changes nothing.
        """
        name = f"{self.kind}_steps"
        if not self.recipe[name]:
            seconds = 60 * self.recipe[f"{self.kind}_minutes"]
            self.recipe[name] = max(1, int(seconds / units / _fastest(try_one)))
            self.stage.note_recipe(self.recipe)
        return self.recipe[name]


def _fastest(try_one: Callable[[], None]) -> float:
    """Seconds."""
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        try_one()
        times.append(time.perf_counter() - started)
    return min(times)
