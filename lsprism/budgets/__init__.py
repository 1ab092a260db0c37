"""How much each layer may keep. To add a rule: a file here, a line below, its name in specs.AllocationName."""

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
    """shares: (all sites, density of all together, what is known of each) -> what each may keep.

    learns: what makes that known, block by block: (sites of one block, spec) -> their traits, one after the other.
    by: the method with which that compresses them, if it does.
    samples: windows of the calibration text that are enough for it; None: all.
    batch_tokens: tokens of one forward pass, on the first of which the harm is measured; 0: as many as usual.
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
