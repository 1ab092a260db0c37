"""From a rule to the budget of every site: what it may keep, divided between non-zeros and factors."""

from collections.abc import Sequence

from lsprism.budgets import BUDGETS
from lsprism.budgets.cost import break_even_rank, split
from lsprism.budgets.meet import Share, total_kept
from lsprism.methods import METHODS
from lsprism.reports import LayerBudget, LinearSite, SiteTraits
from lsprism.specs import PlanSpec


def allot(spec: PlanSpec, sites: list[LinearSite], traits: list[SiteTraits] | None = None) -> dict[str, LayerBudget]:
    """Site name -> budget, by the rule that `spec` names; `traits` are those of all sites, in their order.

    Without the traits that the rule needs: uniform. All rules keep the same in total, but for an n:m pattern's rounding
    and for less than one rank.
    """
    rule = BUDGETS[spec.rule] if traits or BUDGETS[spec.rule].needs == "nothing" else BUDGETS["uniform"]
    density = 1 - spec.sparsity
    shares = rule.shares(sites, density, traits or [])
    if METHODS[spec.method].form == "low_rank":
        return _whole_ranks(sites, shares, total_kept(sites, density))
    return {site.name: _split(site, shares[site.name], spec) for site in sites}


def _split(site: LinearSite, share: Share, spec: PlanSpec) -> LayerBudget:
    asked = spec if share.rank_share is None else spec.model_copy(update={"rank_share": share.rank_share})
    return split(METHODS[spec.method].form, site.rows, site.columns, share.kept, asked)


def _whole_ranks(sites: Sequence[LinearSite], shares: dict[str, Share], total: int) -> dict[str, LayerBudget]:
    """Ranks are whole numbers: each is rounded down, at least 1, and what is left goes to those that lack the most.

    A site that may keep everything keeps it, and has no rank: two factors of as many parameters would lose something.
    """
    rest = [site for site in sites if shares[site.name].kept < site.parameters]
    whole = {site.name: LayerBudget(kept=site.parameters) for site in sites if site not in rest}
    cost = {site.name: site.rows + site.columns for site in rest}
    highest = {site.name: max(1, break_even_rank(site.rows, site.columns)) for site in rest}
    wanted = {name: shares[name].kept / cost[name] for name in cost}
    ranks = {name: min(max(1, int(wanted[name])), highest[name]) for name in cost}
    left = total - sum(budget.kept for budget in whole.values()) - sum(ranks[name] * cost[name] for name in cost)
    for name in sorted(cost, key=lambda name: ranks[name] - wanted[name]):
        if cost[name] <= left and ranks[name] < highest[name]:
            ranks[name], left = ranks[name] + 1, left - cost[name]
    return whole | {name: LayerBudget(kept=ranks[name] * cost[name], rank=ranks[name]) for name in cost}
