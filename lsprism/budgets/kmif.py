"""KMIF: ranks by K-means and an isolation forest on the logarithms of the singular values.

K-means with two clusters; the one with the larger centre is the dominant one. An isolation forest (contamination 0.1)
on the same numbers finds outliers. rank = values that are dominant or outliers; at least 1, at most 0.9 of the
break-even rank rows * columns / (rows + columns). All ranks are then scaled to meet the budget: a site keeps what
factors of its rank would take.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from lsprism.budgets.meet import Share, scaled
from lsprism.budgets.seen import Seen
from lsprism.budgets.spectrum import singular_values
from lsprism.reports import LinearSite, SiteTraits

CONTAMINATION, CAP = 0.1, 0.9
TINY = 1e-12  # of the largest: what is smaller counts as this


def dominant_rank(values: Tensor, rows: int, columns: int) -> int:
    """values [min(rows, columns)] -> rank. The same values, the same rank."""
    numbers = values.double().numpy()
    logarithms = np.log(np.maximum(numbers, max(TINY * numbers.max(), np.finfo(np.float64).tiny)))[:, None]
    picked = _dominant(logarithms) | _outliers(logarithms) if len(np.unique(logarithms)) > 1 else numbers > 0
    return max(1, min(int(picked.sum()), int(CAP * rows * columns / (rows + columns))))


def _dominant(logarithms: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans  # here: it takes seconds to load

    found = KMeans(n_clusters=2, n_init=10, random_state=0).fit(logarithms)
    largest: np.ndarray = found.labels_ == found.cluster_centers_[:, 0].argmax()
    return largest


def _outliers(logarithms: np.ndarray) -> np.ndarray:
    from sklearn.ensemble import IsolationForest

    outside: np.ndarray = IsolationForest(contamination=CONTAMINATION, random_state=0).fit_predict(logarithms) == -1
    return outside


def dominant_ranks(block: list[Seen]) -> Iterator[SiteTraits]:
    for seen in block:
        rank = dominant_rank(singular_values(seen.weight), seen.site.rows, seen.site.columns)
        yield SiteTraits(name=seen.site.name, dominant_rank=rank)


def kmif(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    wishes = [
        seen.dominant_rank * (site.rows + site.columns) / site.parameters
        for site, seen in zip(sites, traits, strict=True)
    ]
    return scaled(sites, wishes, density)
