"""From an allocation rule to the budget of every layer: non-zeros and rank."""

from collections.abc import Sequence

from lsprism.allocation import RULES
from lsprism.allocation.normalize import LayerAllocation, compute_total_kept
from lsprism.allocation.packed_sizes import compute_break_even_rank, split
from lsprism.methods import METHODS
from lsprism.records.model_plan import Layer, LayerBudget, LayerSensitivity
from lsprism.specs import PlanSpec


def allocate(
    spec: PlanSpec, sites: list[Layer], traits: list[LayerSensitivity] | None = None
) -> dict[str, LayerBudget]:
    """Layer name -> budget, by the allocation rule of `spec`. `traits`: measurements of all layers, in their order.

    Uniform if the measurements that the rule needs are missing. All rules keep the same total, up to the rounding of an
    N:M pattern or of one rank.
    """
    rule = RULES[spec.rule] if traits or RULES[spec.rule].needs == "nothing" else RULES["uniform"]
    density = 1 - spec.sparsity
    shares = rule.shares(sites, density, traits or [])
    if METHODS[spec.method].form == "low_rank":
        return _round_ranks(sites, shares, compute_total_kept(sites, density))
    return {site.name: _split(site, shares[site.name], spec) for site in sites}


def _split(site: Layer, share: LayerAllocation, spec: PlanSpec) -> LayerBudget:
    asked = spec if share.rank_share is None else spec.model_copy(update={"rank_share": share.rank_share})
    return split(METHODS[spec.method].form, site.rows, site.columns, share.kept, asked)


def _round_ranks(sites: Sequence[Layer], shares: dict[str, LayerAllocation], total: int) -> dict[str, LayerBudget]:
    """Round ranks to integers: down, to at least 1; the rest of `total` goes to the layers with the largest remainders.

    A layer that may keep all its parameters stays dense: low-rank factors of the same size would be lossy.
    """
    rest = [site for site in sites if shares[site.name].kept < site.parameters]
    whole = {site.name: LayerBudget(kept=site.parameters) for site in sites if site not in rest}
    cost = {site.name: site.rows + site.columns for site in rest}
    highest = {site.name: max(1, compute_break_even_rank(site.rows, site.columns)) for site in rest}
    wanted = {name: shares[name].kept / cost[name] for name in cost}
    ranks = {name: min(max(1, int(wanted[name])), highest[name]) for name in cost}
    left = total - sum(budget.kept for budget in whole.values()) - sum(ranks[name] * cost[name] for name in cost)
    for name in sorted(cost, key=lambda name: ranks[name] - wanted[name]):
        if cost[name] <= left and ranks[name] < highest[name]:
            ranks[name], left = ranks[name] + 1, left - cost[name]
    return whole | {name: LayerBudget(kept=ranks[name] * cost[name], rank=ranks[name]) for name in cost}
