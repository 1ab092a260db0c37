"""Allocation by error curves: minimizes the total predicted change of the blocks' outputs, over density and rank.

Each layer has a measured curve of its relative output error over density (error_curves.py), and its sensitivity at
density
0.5 (sensitivity.py). The predicted change is the sensitivity, scaled by the square of the error. (Squared errors
without sensitivities gave perplexity 53 where uniform gave 34: if a few tokens of huge scale dominate the outputs, the
error is small at almost any density. With sensitivities it is 32. SparseGPT, demo model, 0.5.)

The change is evaluated on a grid of densities, each with the better rank share. Then a greedy knapsack over all layers:
starting from the lowest density, parameters go to the layer where the next step on the lower convex hull of its curve
reduces the change the most per parameter. On convex hulls this is optimal, up to the last step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from lsprism.allocation.error_curves import interpolate_errors, measure_error_curves
from lsprism.allocation.normalize import LayerAllocation, compute_bounds, compute_total_kept
from lsprism.allocation.rule import AllocationRule
from lsprism.allocation.sensitivity import HALF, REACH, resolve_sensitivities
from lsprism.records.model_plan import ErrorPoint, Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo

STEPS = 100  # grid steps of a curve


@dataclass(frozen=True)
class HullPoint:
    """A point of one layer's curve or its hull."""

    kept: int
    loss: float  # predicted change of the block's output
    rank_share: float | None


def allocate_by_error_curves(
    sites: list[Layer], density: float, traits: list[LayerSensitivity]
) -> dict[str, LayerAllocation]:
    """Allocate by error curves; `traits` are the results of curves.measure_error_curves."""
    harmed = zip(sites, traits, resolve_sensitivities(sites, traits), strict=True)
    hulls = [_compute_hull(_list_choices(seen.curve, site.parameters, density, harm)) for site, seen, harm in harmed]
    taken, missing = [0] * len(hulls), compute_total_kept(sites, density) - sum(hull[0].kept for hull in hulls)
    queue = [(_compute_slope(hull, 0), n) for n, hull in enumerate(hulls) if len(hull) > 1]
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
            heappush(queue, (_compute_slope(hull, taken[n]), n))
    corners = [hull[at] for hull, at in zip(hulls, taken, strict=True)]
    return {
        site.name: LayerAllocation(corner.kept + more, corner.rank_share)
        for site, corner, more in zip(sites, corners, extra, strict=True)
    }


def _list_choices(curve: Sequence[ErrorPoint], parameters: int, density: float, harm: float) -> list[HullPoint]:
    """Grid points of one layer, from the lowest to the highest density, each with the better rank share."""
    densities = np.linspace(*compute_bounds(density, REACH), STEPS + 1)
    places = np.append(densities, HALF)
    shares = sorted({point.rank_share for point in curve})
    found = [interpolate_errors([point for point in curve if point.rank_share == share], places) for share in shares]
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
        HullPoint(round(place * parameters), float(losses[of, n]), rank_shares[of])
        for n, (place, of) in enumerate(zip(densities, best, strict=True))
    ]


def _compute_hull(choices: Sequence[HullPoint]) -> list[HullPoint]:
    """The points of the lower convex hull of loss over kept parameters."""
    hull: list[HullPoint] = []
    for corner in choices:
        if hull and corner.kept == hull[-1].kept:
            continue
        while len(hull) > 1 and _compute_gain(hull[-2], hull[-1]) <= _compute_gain(hull[-1], corner):
            hull.pop()
        hull.append(corner)
    return hull


def _compute_gain(before: HullPoint, after: HullPoint) -> float:
    """Reduction of the loss per additional parameter."""
    return (before.loss - after.loss) / (after.kept - before.kept)


def _compute_slope(hull: Sequence[HullPoint], at: int) -> float:
    """Negative gain, because heapq pops the smallest item first."""
    return -_compute_gain(hull[at], hull[at + 1])


INFO = RuleInfo(
    name="error-curves",
    keeps="the total predicted error falls most",
    position=70,
)
RULE = AllocationRule(allocate_by_error_curves, "inputs", measure_error_curves, lambda spec: spec.method)
