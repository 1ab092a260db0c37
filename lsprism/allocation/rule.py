"""The contract of an allocation rule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import LayerAllocation
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.specs import PlanSpec


@dataclass(frozen=True)
class AllocationRule:
    """An allocation rule.

    shares: (all layers, overall density, measurements of each layer) -> layer name to its share. Its total must be
        normalize.compute_total_kept.
    needs: what has to be loaded to measure a layer.
    learns: (layers of one block, spec) -> their measurements, one at a time; None if the rule needs none.
    by: the method that `learns` compresses the layers with; None if it does not compress.
    samples: number of calibration windows that `learns` needs; None: all.
    batch_tokens: tokens per forward pass, of which the first measures the sensitivity; 0: the default.
    """

    shares: Callable[[list[Layer], float, list[LayerSensitivity]], dict[str, LayerAllocation]]
    needs: Literal["nothing", "weights", "inputs"] = "nothing"
    learns: Callable[[list[LayerInputs], PlanSpec], Iterator[LayerSensitivity]] | None = None
    by: Callable[[PlanSpec], str] | None = None
    samples: int | None = None
    batch_tokens: int = 0
