"""Allocation rules: how the kept parameters are distributed over the layers.

To add a rule: add a file here, a line below, and its name in specs.AllocationName.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lsprism.allocation.atp import allocate_atp
from lsprism.allocation.effective_rank import allocate_by_spectrum, measure_effective_ranks
from lsprism.allocation.error_curves import measure_error_curves
from lsprism.allocation.kmif import allocate_kmif, measure_dominant_ranks
from lsprism.allocation.knapsack import allocate_by_error_curves
from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import LayerAllocation
from lsprism.allocation.owl import allocate_owl, measure_outliers
from lsprism.allocation.sensitivity import allocate_by_sensitivity, measure_sensitivities, select_proxy_method
from lsprism.allocation.uniform import allocate_uniform
from lsprism.reports import Layer, LayerSensitivity
from lsprism.specs import MethodName, PlanSpec


@dataclass(frozen=True)
class AllocationRule:
    """An allocation rule.

    shares: (all layers, overall density, measurements of each layer) -> layer name to its share. Its total must be
        meet.compute_total_kept.
    needs: what has to be loaded to measure a layer.
    learns: (layers of one block, spec) -> their measurements, one at a time; None if the rule needs none.
    by: the method that `learns` compresses the layers with; None if it does not compress.
    samples: number of calibration windows that `learns` needs; None: all.
    batch_tokens: tokens per forward pass, of which the first measures the sensitivity; 0: the default.
    """

    shares: Callable[[list[Layer], float, list[LayerSensitivity]], dict[str, LayerAllocation]]
    needs: Literal["nothing", "weights", "inputs"] = "nothing"
    learns: Callable[[list[LayerInputs], PlanSpec], Iterator[LayerSensitivity]] | None = None
    by: Callable[[PlanSpec], MethodName] | None = None
    samples: int | None = None
    batch_tokens: int = 0


BUDGETS: dict[str, AllocationRule] = {
    "uniform": AllocationRule(allocate_uniform),
    "owl": AllocationRule(allocate_owl, "inputs", lambda block, _: measure_outliers(block)),
    "atp": AllocationRule(allocate_atp),
    "spectrum": AllocationRule(allocate_by_spectrum, "weights", lambda block, _: measure_effective_ranks(block)),
    "kmif": AllocationRule(allocate_kmif, "weights", lambda block, _: measure_dominant_ranks(block)),
    "sensitivity": AllocationRule(
        allocate_by_sensitivity, "inputs", measure_sensitivities, select_proxy_method, samples=8, batch_tokens=1024
    ),
    "error-curves": AllocationRule(allocate_by_error_curves, "inputs", measure_error_curves, lambda spec: spec.method),
}
