"""Error curves: the error of a layer at a few densities, and interpolation between them.

The error is roughly a power of the sparsity. So log(error) is interpolated over log(sparsity) by a monotone cubic
(linear if there are only two points), and extrapolated linearly. (Linear interpolation over the density predicted 4 %
too little between 0.4 and 0.6: Wanda, demo model.)
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.packed_sizes import split
from lsprism.allocation.sensitivity import measure_sensitivity
from lsprism.method_catalog import get_method_info
from lsprism.methods import METHODS
from lsprism.methods.stats import compute_output_error
from lsprism.records.model_plan import ErrorPoint, Layer, LayerBudget, LayerSensitivity
from lsprism.specs import PlanSpec

DENSITIES = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
JOINED_DENSITIES = (0.8, 0.5, 0.25)  # for sparse + low-rank methods: slower, and measured with and without factors
ROWS = 256  # rows to measure sparse methods on; their rows are nearly independent
MAX_EXTRAPOLATION = 0.1  # density: predict errors at most this far from the measured points
# A point is used if its rank differs by at most MAX_RANK_GAP, or its factors by MAX_RANK_GAP_RELATIVE of the budget.
MAX_RANK_GAP = 1.5
MAX_RANK_GAP_RELATIVE = 0.02
TINY = 1e-6


def measure_error_curves(block: list[LayerInputs], spec: PlanSpec) -> Iterator[LayerSensitivity]:
    """Measure the error curve and the sensitivity of each layer with the method of `spec` at its fast effort."""
    for seen in block:
        curve, harm = list(_measure_curve(seen, spec)), measure_sensitivity(seen, spec, spec.method)
        yield LayerSensitivity(name=seen.site.name, curve=curve, harm=harm)


def _measure_curve(seen: LayerInputs, spec: PlanSpec) -> Iterator[ErrorPoint]:
    method = METHODS[spec.method]
    weight = _sample_rows(seen.weight) if method.form == "sparse" else seen.weight
    sample = seen.inputs.sample
    for density, rank_share in _list_points(spec):
        asked = spec.model_copy(update={"rank_share": rank_share})
        rows, columns = weight.shape
        budget = split(method.form, rows, columns, round(density * weight.numel()), asked)
        try:
            found = method.compress(weight, seen.inputs, budget).to_dense()
        except torch.linalg.LinAlgError:  # skip the point; the compression itself reports such errors
            continue
        error = compute_output_error(weight, found, sample)
        if math.isfinite(error):
            yield ErrorPoint(density=budget.kept / weight.numel(), rank_share=rank_share, error=error)


def _list_points(spec: PlanSpec) -> Iterable[tuple[float, float]]:
    if get_method_info(spec.method).low_rank:
        return [(density, share) for share in (0.0, spec.rank_share) for density in JOINED_DENSITIES]
    return [(density, 0.0) for density in DENSITIES]


def _sample_rows(weight: Tensor) -> Tensor:
    """Up to ROWS evenly spaced rows."""
    count = min(ROWS, len(weight))
    return weight[torch.linspace(0, len(weight) - 1, count).round().long().to(weight.device)]


def interpolate_errors(points: Sequence[ErrorPoint], densities: np.ndarray) -> np.ndarray | None:
    """Interpolated errors at `densities`, from points with the same rank share; None if there are fewer than two."""
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


def predict_error(points: Sequence[ErrorPoint], site: Layer, budget: LayerBudget) -> float | None:
    """The predicted error of a layer that keeps `budget`; None if no measured point is close enough."""
    ranks_of_all = budget.kept / (site.rows + site.columns)
    near = max(MAX_RANK_GAP, MAX_RANK_GAP_RELATIVE * ranks_of_all)
    alike = [point for point in points if abs(point.rank_share * ranks_of_all - budget.rank) <= near]
    density = budget.kept / site.parameters
    places = [point.density for point in alike]
    if not places or not min(places) - MAX_EXTRAPOLATION <= density <= max(places) + MAX_EXTRAPOLATION:
        return None
    errors = interpolate_errors(alike, np.array([density]))
    return None if errors is None else float(errors[0])
