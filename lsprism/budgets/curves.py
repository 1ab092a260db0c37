"""Error curves: what a site loses at a few densities, and what follows for those between.

Errors are near to a power of the share that is removed: the logarithm of the one is interpolated over that of the other
by a monotone cubic, which is straight between two points, and goes on straight beyond the outer ones. (Straight lines
over the density itself foretold 4 % too little between 0.4 and 0.6: Wanda, demo model.)
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from lsprism.budgets.cost import split
from lsprism.budgets.harm import harm_at_half
from lsprism.budgets.seen import Seen
from lsprism.methods import METHODS
from lsprism.methods.stats import relative_output_error
from lsprism.reports import ErrorPoint, LayerBudget, LinearSite, SiteTraits
from lsprism.specs import JOINED, PlanSpec

DENSITIES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
JOINED_DENSITIES = (0.8, 0.5, 0.25)  # of a joined method, which is slower, and asked with and without factors
ROWS = 256  # of a sparse method, whose rows hardly know of each other, so many are enough
BEYOND = 0.1  # density: how far from the points an error is still foretold
RANKS = 1.5  # by which a point may differ in rank, in ranks; and SHARES, in what is kept
SHARES = 0.02
TINY = 1e-6


def errors_of(block: list[Seen], spec: PlanSpec) -> Iterator[SiteTraits]:
    """Compress each site at every point, by the fast kind of the method, and forget all but the errors."""
    for seen in block:
        curve, harm = list(_curve(seen, spec)), harm_at_half(seen, spec, spec.method)
        yield SiteTraits(name=seen.site.name, curve=curve, harm=harm)


def _curve(seen: Seen, spec: PlanSpec) -> Iterator[ErrorPoint]:
    method = METHODS[spec.method]
    weight = _some_rows(seen.weight) if method.form == "sparse" else seen.weight
    sample = seen.inputs.sample
    for density, rank_share in _points(spec):
        asked = spec.model_copy(update={"rank_share": rank_share})
        rows, columns = weight.shape
        budget = split(method.form, rows, columns, round(density * weight.numel()), asked)
        try:
            found = method.compress(weight, seen.inputs, budget).dense()
        except torch.linalg.LinAlgError:  # a point less; if the compression itself meets it, it says so
            continue
        error = relative_output_error(weight, found, sample)
        if math.isfinite(error):
            yield ErrorPoint(density=budget.kept / weight.numel(), rank_share=rank_share, error=error)


def _points(spec: PlanSpec) -> Iterable[tuple[float, float]]:
    if spec.method in JOINED:
        return [(density, share) for share in (0.0, spec.rank_share) for density in JOINED_DENSITIES]
    return [(density, 0.0) for density in DENSITIES]


def _some_rows(weight: Tensor) -> Tensor:
    """Evenly spaced."""
    count = min(ROWS, len(weight))
    return weight[torch.linspace(0, len(weight) - 1, count).round().long().to(weight.device)]


def error_at(points: Sequence[ErrorPoint], densities: np.ndarray) -> np.ndarray | None:
    """The errors at `densities` by points of one rank share; None where these are fewer than two."""
    known = {np.log(max(1 - point.density, TINY)): max(point.error, TINY) for point in points}
    if len(known) < 2:
        return None
    places = np.array(sorted(known))
    logs = np.log([known[place] for place in places])
    curve = PchipInterpolator(places, logs)
    slopes = curve.derivative()(places[[0, -1]])
    asked = np.log(np.maximum(1 - densities, TINY))
    inside = np.clip(asked, places[0], places[-1])
    outside = asked - inside
    found: np.ndarray = np.exp(curve(inside) + outside * np.where(outside < 0, slopes[0], slopes[1]))
    return found


def foretold(points: Sequence[ErrorPoint], site: LinearSite, budget: LayerBudget) -> float | None:
    """The error of a site that keeps `budget`; None where the points know nothing near it."""
    ranks_of_all = budget.kept / (site.rows + site.columns)
    near = max(RANKS, SHARES * ranks_of_all)
    alike = [point for point in points if abs(point.rank_share * ranks_of_all - budget.rank) <= near]
    density = budget.kept / site.parameters
    places = [point.density for point in alike]
    if not places or not min(places) - BEYOND <= density <= max(places) + BEYOND:
        return None
    errors = error_at(alike, np.array([density]))
    return None if errors is None else float(errors[0])
