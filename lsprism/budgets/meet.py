"""From wishes to a sum: every rule says how dense it would like each site; together they keep what was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lsprism.reports import LinearSite

HIGHEST = 0.9  # density: above about 15/16 the bitmap makes a sparse layer larger than a dense one
LOWEST = 0.05
HALVINGS = 100

Turn = Callable[[np.ndarray, float], np.ndarray]  # wishes, a number -> densities that rise with the number


@dataclass(frozen=True)
class Share:
    """What one site may keep, in parameters; of these the share that goes to factors, None: as for all sites."""

    kept: int
    rank_share: float | None = None


def bounds(density: float, reach: float = 1.0) -> tuple[float, float]:
    """The lowest and the highest density of a site, where `density` is that of all together, at most `reach` away."""
    least, most = min(LOWEST, density / 2), max(HIGHEST, density)
    return max(least, density - reach), min(most, density + reach)


def total_kept(sites: Sequence[LinearSite], density: float) -> int:
    return round(density * sum(site.parameters for site in sites))


def raised(sites: Sequence[LinearSite], wishes: Sequence[float], density: float) -> dict[str, Share]:
    """Densities = wishes, all raised or lowered by the same amount; the differences between them stay."""
    return _met(sites, wishes, density, np.add, (-1.0 - max(wishes), 1.0 - min(wishes)))


def scaled(sites: Sequence[LinearSite], wishes: Sequence[float], density: float) -> dict[str, Share]:
    """Densities = wishes (above 0), all multiplied by the same number; the ratios between them stay."""
    return _met(sites, wishes, density, np.multiply, (0.0, 1.0 / min(wishes)))


def thinned(sites: Sequence[LinearSite], wishes: Sequence[float], density: float, reach: float) -> dict[str, Share]:
    """Densities = 1 - wishes (above 0), all multiplied by the same number, none further than `reach` from the mean."""
    return _met(sites, wishes, density, lambda wanted, number: 1 + wanted * number, (-1.0 / min(wishes), 0.0), reach)


def _met(
    sites: Sequence[LinearSite],
    wishes: Sequence[float],
    density: float,
    turn: Turn,
    ends: tuple[float, float],
    reach: float = 1.0,
) -> dict[str, Share]:
    """Halve in on the number, between `ends`, with which all sites, each within `bounds`, keep total_kept."""
    limits = bounds(density, reach)
    sizes, wanted = np.array([site.parameters for site in sites]), np.array(wishes, dtype=np.float64)
    low, high = ends
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = (np.clip(turn(wanted, middle), *limits) * sizes).sum()
        low, high = (middle, high) if kept < density * sizes.sum() else (low, middle)
    whole = _whole(np.clip(turn(wanted, high), *limits) * sizes, total_kept(sites, density))
    return {site.name: Share(kept) for site, kept in zip(sites, whole, strict=True)}


def _whole(amounts: np.ndarray, total: int) -> list[int]:
    """Whole numbers of the sum `total`, each next to its amount: those with the largest rest are rounded up."""
    whole = np.floor(amounts).astype(np.int64)
    missing = min(max(0, total - int(whole.sum())), len(whole))
    whole[np.argsort(whole - amounts, kind="stable")[:missing]] += 1
    found: list[int] = whole.tolist()
    return found
