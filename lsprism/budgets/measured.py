"""Shares by measured errors: the harm that all sites do together is made small, by density and rank at once.

A site has a curve of its relative output error over what it keeps, and its harm at half (harm.py), which goes with the
square of the error. (Squared errors alone, whatever they do to the model, gave a perplexity of 53 where uniform shares
gave 34: where a few tokens of huge scale make up the outputs, the error says that hardly anything is needed. With the
harm it is 32. SparseGPT, demo model, 0.5.)

The loss is looked at on a grid of densities, at each of them with the better rank share. A knapsack over all: from the
least on, parameters go in turn to the site where the next step of the lower convex hull of its curve gains the most for
each of them. On hulls that is the optimum, but for the last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from lsprism.budgets.curves import error_at
from lsprism.budgets.harm import HALF, REACH, known_harms
from lsprism.budgets.meet import Share, bounds, total_kept
from lsprism.reports import ErrorPoint, LinearSite, SiteTraits

STEPS = 100  # of a curve


@dataclass(frozen=True)
class Corner:
    """Of the hull of one site's curve."""

    kept: int
    loss: float
    rank_share: float | None


def measured(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    harmed = zip(sites, traits, known_harms(sites, traits), strict=True)
    hulls = [_hull(_choices(seen.curve, site.parameters, density, harm)) for site, seen, harm in harmed]
    taken, missing = [0] * len(hulls), total_kept(sites, density) - sum(hull[0].kept for hull in hulls)
    queue = [(_slope(hull, 0), n) for n, hull in enumerate(hulls) if len(hull) > 1]
    heapify(queue)
    extra = [0] * len(hulls)
    while queue and missing > 0:
        _, n = heappop(queue)
        hull, step = hulls[n], hulls[n][taken[n] + 1].kept - hulls[n][taken[n]].kept
        if step > missing:  # a part of the last step: the sum is met exactly
            extra[n], missing = missing, 0
            break
        taken[n], missing = taken[n] + 1, missing - step
        if taken[n] + 1 < len(hull):
            heappush(queue, (_slope(hull, taken[n]), n))
    corners = [hull[at] for hull, at in zip(hulls, taken, strict=True)]
    return {
        site.name: Share(corner.kept + more, corner.rank_share)
        for site, corner, more in zip(sites, corners, extra, strict=True)
    }


def _choices(curve: Sequence[ErrorPoint], parameters: int, density: float, harm: float) -> list[Corner]:
    """What the site may keep, from the lowest to the highest density, at each with the better rank share."""
    densities = np.linspace(*bounds(density, REACH), STEPS + 1)
    places = np.append(densities, HALF)
    shares = sorted({point.rank_share for point in curve})
    found = [error_at([point for point in curve if point.rank_share == share], places) for share in shares]
    known: list[tuple[float | None, np.ndarray]] = [
        (share, values) for share, values in zip(shares, found, strict=True) if values is not None
    ]
    known = known or [(None, 1 - places)]  # a site too small for two points
    errors = np.stack([values for _, values in known])
    rank_shares = [share for share, _ in known]
    losses = harm * np.square(errors[:, :-1] / errors[-1, -1])  # the harm was done with as many factors as there may be
    best = losses.argmin(axis=0)
    return [
        Corner(round(place * parameters), float(losses[of, n]), rank_shares[of])
        for n, (place, of) in enumerate(zip(densities, best, strict=True))
    ]


def _hull(choices: Sequence[Corner]) -> list[Corner]:
    """The corners of the lower convex hull over what is kept."""
    hull: list[Corner] = []
    for corner in choices:
        if hull and corner.kept == hull[-1].kept:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], corner):
            hull.pop()
        hull.append(corner)
    return hull


def _gain(before: Corner, after: Corner) -> float:
    """Loss that goes for each parameter more."""
    return (before.loss - after.loss) / (after.kept - before.kept)


def _slope(hull: Sequence[Corner], at: int) -> float:
    """Negative, so that the heap gives the largest gain first."""
    return -_gain(hull[at], hull[at + 1])
