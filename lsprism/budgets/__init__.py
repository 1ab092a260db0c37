"""Allocation rules: how the kept parameters are distributed over the layers.

To add a rule: add a file here, a line below, and its name in specs.AllocationName.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lsprism.budgets.atp import atp
from lsprism.budgets.curves import errors_of
from lsprism.budgets.harm import asked_of, harm, harms
from lsprism.budgets.kmif import dominant_ranks, kmif
from lsprism.budgets.measured import measured
from lsprism.budgets.meet import Share
from lsprism.budgets.owl import outliers, owl
from lsprism.budgets.seen import Seen
from lsprism.budgets.spectrum import effective_ranks, spectrum
from lsprism.budgets.uniform import uniform
from lsprism.reports import LinearSite, SiteTraits
from lsprism.specs import MethodName, PlanSpec


@dataclass(frozen=True)
class Rule:
    """An allocation rule.

    shares: (all layers, overall density, measurements of each layer) -> layer name to its share. Its total must be
        meet.total_kept.
    needs: what has to be loaded to measure a layer.
    learns: (layers of one block, spec) -> their measurements, one at a time; None if the rule needs none.
    by: the method that `learns` compresses the layers with; None if it does not compress.
    samples: number of calibration windows that `learns` needs; None: all.
    batch_tokens: tokens per forward pass, of which the first measures the sensitivity; 0: the default.
    """

    shares: Callable[[list[LinearSite], float, list[SiteTraits]], dict[str, Share]]
    needs: Literal["nothing", "weights", "inputs"] = "nothing"
    learns: Callable[[list[Seen], PlanSpec], Iterator[SiteTraits]] | None = None
    by: Callable[[PlanSpec], MethodName] | None = None
    samples: int | None = None
    batch_tokens: int = 0


BUDGETS: dict[str, Rule] = {
    "uniform": Rule(uniform),
    "owl": Rule(owl, "inputs", lambda block, _: outliers(block)),
    "atp": Rule(atp),
    "spectrum": Rule(spectrum, "weights", lambda block, _: effective_ranks(block)),
    "kmif": Rule(kmif, "weights", lambda block, _: dominant_ranks(block)),
    "sensitivity": Rule(harm, "inputs", harms, asked_of, samples=8, batch_tokens=1024),
    "error-curves": Rule(measured, "inputs", errors_of, lambda spec: spec.method),
}
