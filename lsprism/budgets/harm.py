"""Shares by harm: what a site, half of it removed, does to the hidden states behind its block (calibration/harm.py).

    harm of site i ~ harm at half * (removed_i / half) ^ POWER

The power is nearly one and the same: 3.25 to 3.65 for nine sites of ten (squared output errors of SparseGPT at 0.35,
0.5 and 0.65, demo model), so one compression of each site tells as much as a curve. The sum of harms is least, for what
is kept in all, where the last parameter does as much harm in each of them:

    removed_i ~ (parameters_i / harm_i) ^ (1 / (POWER - 1))

Harms are those of each site alone, so no site goes far from the mean.
"""

from collections.abc import Iterator, Sequence
from statistics import median

import torch

from lsprism.budgets.cost import split
from lsprism.budgets.meet import Share, thinned
from lsprism.budgets.seen import Seen
from lsprism.methods import METHODS
from lsprism.reports import LinearSite, SiteTraits
from lsprism.specs import MethodName, PlanSpec

HALF = 0.5  # density at which harms are measured
POWER = 3.4
REACH = 0.2  # density: how far from the mean a site may go
FLOOR = 0.1  # of the median harm for each parameter: no site counts less
STAND_INS: dict[str, MethodName] = dict.fromkeys(("hybrid", "oats", "sparsegpt"), "wanda")  # see asked_of


def harms(block: list[Seen], spec: PlanSpec) -> Iterator[SiteTraits]:
    for seen in block:
        yield SiteTraits(name=seen.site.name, harm=harm_at_half(seen, spec, asked_of(spec)))


def asked_of(spec: PlanSpec) -> MethodName:
    """The method by which the rule `harm` compresses to half: a fast one, for all that keep weights by their inputs.

    Shares by the harm of Wanda bring 85 % of what those by SparseGPT's own bring it, in a third of the time: 0.172
    instead of 0.167, uniform shares 0.200 (sum of SparseGPT's harms, demo model, 0.5).
    """
    return STAND_INS.get(spec.method, spec.method)


def harm_at_half(seen: Seen, spec: PlanSpec, method: MethodName) -> float:
    """By one compression with `method`; 0, not known, where that fails."""
    weight, by = seen.weight, METHODS[method]
    rows, columns = weight.shape
    assert seen.harm is not None
    try:
        found = by.compress(weight, seen.inputs, split(by.form, rows, columns, round(HALF * weight.numel()), spec))
    except torch.linalg.LinAlgError:  # if the compression itself meets it, it says so
        return 0.0
    return seen.harm(found.dense())


def known_harms(sites: Sequence[LinearSite], traits: Sequence[SiteTraits]) -> list[float]:
    """Of each site. One that is not known, 0, is for its size as harmful as the median; none counts much less."""
    each = [seen.harm / site.parameters for site, seen in zip(sites, traits, strict=True)]
    known = [harm for harm in each if harm > 0]
    middle = median(known) if known else 1.0
    return [max(harm or middle, FLOOR * middle) * site.parameters for site, harm in zip(sites, each, strict=True)]


def harm(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    found = known_harms(sites, traits)
    wishes = [(site.parameters / harm) ** (1 / (POWER - 1)) for site, harm in zip(sites, found, strict=True)]
    return thinned(sites, wishes, density, REACH)
