"""Allocation by error curves: minimizes the total predicted change of the blocks' outputs, over density and rank.

Each layer has a measured curve of its relative output error over density (curves.py), and its sensitivity at density
0.5 (harm.py). The predicted change is the sensitivity, scaled by the square of the error. (Squared errors without
sensitivities gave perplexity 53 where uniform gave 34: if a few tokens of huge scale dominate the outputs, the error is
small at almost any density. With sensitivities it is 32. SparseGPT, demo model, 0.5.)

The change is evaluated on a grid of densities, each with the better rank share. Then a greedy knapsack over all layers:
starting from the lowest density, parameters go to the layer where the next step on the lower convex hull of its curve
reduces the change the most per parameter. On convex hulls this is optimal, up to the last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from lsprism.budgets.curves import error_at
from lsprism.budgets.harm import HALF, REACH, known_harms
from lsprism.budgets.meet import Share, bounds, total_kept
from lsprism.reports import ErrorPoint, LinearSite, SiteTraits

STEPS = 100  # grid steps of a curve


@dataclass(frozen=True)
class Corner:
    """A point of one layer's curve or its hull."""

    kept: int
    loss: float  # predicted change of the block's output
    rank_share: float | None


def measured(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    """Allocate by error curves; `traits` are the results of curves.errors_of."""
    harmed = zip(sites, traits, known_harms(sites, traits), strict=True)
    hulls = [_hull(_choices(seen.curve, site.parameters, density, harm)) for site, seen, harm in harmed]
    taken, missing = [0] * len(hulls), total_kept(sites, density) - sum(hull[0].kept for hull in hulls)
    queue = [(_slope(hull, 0), n) for n, hull in enumerate(hulls) if len(hull) > 1]
    heapify(queue)
    extra = [0] * len(hulls)
    while queue and missing > 0:
        _, n = heappop(queue)
        hull, step = hulls[n], hulls[n][taken[n] + 1].kept - hulls[n][taken[n]].kept
        if step > missing:  # a part of the last step, to meet the total exactly
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
    """Grid points of one layer, from the lowest to the highest density, each with the better rank share."""
    densities = np.linspace(*bounds(density, REACH), STEPS + 1)
    places = np.append(densities, HALF)
    shares = sorted({point.rank_share for point in curve})
    found = [error_at([point for point in curve if point.rank_share == share], places) for share in shares]
    known: list[tuple[float | None, np.ndarray]] = [
        (share, values) for share, values in zip(shares, found, strict=True) if values is not None
    ]
    known = known or [(None, 1 - places)]  # fewer than two points: a tiny layer
    errors = np.stack([values for _, values in known])
    rank_shares = [share for share, _ in known]
    # The sensitivity was measured at density HALF with the largest rank share.
    losses = harm * np.square(errors[:, :-1] / errors[-1, -1])
    best = losses.argmin(axis=0)
    return [
        Corner(round(place * parameters), float(losses[of, n]), rank_shares[of])
        for n, (place, of) in enumerate(zip(densities, best, strict=True))
    ]


def _hull(choices: Sequence[Corner]) -> list[Corner]:
    """The points of the lower convex hull of loss over kept parameters."""
    hull: list[Corner] = []
    for corner in choices:
        if hull and corner.kept == hull[-1].kept:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], corner):
            hull.pop()
        hull.append(corner)
    return hull


def _gain(before: Corner, after: Corner) -> float:
    """Reduction of the loss per additional parameter."""
    return (before.loss - after.loss) / (after.kept - before.kept)


def _slope(hull: Sequence[Corner], at: int) -> float:
    """Negative gain, because heapq pops the smallest item first."""
    return -_gain(hull[at], hull[at + 1])
