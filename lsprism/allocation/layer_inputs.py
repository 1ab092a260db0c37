"""One layer of the uncompressed model, as an allocation rule measures it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lsprism.methods.stats import InputStats
from lsprism.records.model_plan import Layer


@dataclass(frozen=True)
class LayerInputs:
    site: Layer
    weight: Tensor  # [rows, columns]
    stats: InputStats | None  # of the inputs; None if the rule needs only the weights
    harm: Callable[[Tensor], float] | None = (
        None  # weight -> sensitivity with this weight: see calibration/output_change.py
    )

    @property
    def inputs(self) -> InputStats:
        """The statistics, for rules that need them."""
        assert self.stats is not None
        return self.stats
