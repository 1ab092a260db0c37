"""One site as a rule may look at it before budgets are set."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lsprism.methods.stats import InputStats
from lsprism.reports import LinearSite


@dataclass(frozen=True)
class Seen:
    site: LinearSite
    weight: Tensor  # [rows, columns]
    stats: InputStats | None  # of the inputs in the uncompressed model; None where the rule needs the weights alone
    harm: Callable[[Tensor], float] | None = None  # of a weight in its place: see calibration/harm.py

    @property
    def inputs(self) -> InputStats:
        """The statistics, for rules that need them."""
        assert self.stats is not None
        return self.stats
