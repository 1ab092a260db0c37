"""KMIF: ranks by K-means and an isolation forest on the logarithms of the singular values.

K-means uses two clusters; the one with the larger center is the dominant one. An isolation forest (contamination 0.1)
on the same values finds outliers. The rank is the number of values that are dominant or outliers, at least 1 and at
most 0.9 of the break-even rank rows * columns / (rows + columns). A layer keeps as many parameters as low-rank factors
of its rank, scaled by the same number for all layers to meet the total.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from lsprism.allocation.effective_rank import compute_singular_values
from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import LayerAllocation, scale_to_total
from lsprism.allocation.rule import AllocationRule
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo

CONTAMINATION = 0.1
CAP = 0.9  # of the break-even rank
TINY = 1e-12  # minimum singular value, relative to the largest


def find_dominant_rank(values: Tensor, rows: int, columns: int) -> int:
    """Singular values [min(rows, columns)] -> rank. Deterministic."""
    numbers = values.double().numpy()
    logarithms = np.log(np.maximum(numbers, max(TINY * numbers.max(), np.finfo(np.float64).tiny)))[:, None]
    picked = _find_dominant(logarithms) | _find_outliers(logarithms) if len(np.unique(logarithms)) > 1 else numbers > 0
    return max(1, min(int(picked.sum()), int(CAP * rows * columns / (rows + columns))))


def _find_dominant(logarithms: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans  # takes seconds to load

    found = KMeans(n_clusters=2, n_init=10, random_state=0).fit(logarithms)
    largest: np.ndarray = found.labels_ == found.cluster_centers_[:, 0].argmax()
    return largest


def _find_outliers(logarithms: np.ndarray) -> np.ndarray:
    from sklearn.ensemble import IsolationForest

    outside: np.ndarray = IsolationForest(contamination=CONTAMINATION, random_state=0).fit_predict(logarithms) == -1
    return outside


def measure_dominant_ranks(block: list[LayerInputs]) -> Iterator[LayerSensitivity]:
    """Compute the dominant rank of each layer of a block."""
    for seen in block:
        rank = find_dominant_rank(compute_singular_values(seen.weight), seen.site.rows, seen.site.columns)
        yield LayerSensitivity(name=seen.site.name, dominant_rank=rank)


def allocate_kmif(sites: list[Layer], density: float, traits: list[LayerSensitivity]) -> dict[str, LayerAllocation]:
    """Allocate by dominant ranks; `traits` are the results of `measure_dominant_ranks`."""
    wishes = [
        seen.dominant_rank * (site.rows + site.columns) / site.parameters
        for site, seen in zip(sites, traits, strict=True)
    ]
    return scale_to_total(sites, wishes, density)


INFO = RuleInfo(
    name="kmif",
    keeps="singular values are spread wider, by clustering",
    position=50,
)
RULE = AllocationRule(allocate_kmif, "weights", lambda block, _: measure_dominant_ranks(block))
