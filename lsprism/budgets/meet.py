"""Adjusts the densities that a rule asks for, so that all layers together keep the requested total."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lsprism.reports import LinearSite

# Densities of a layer. Above about 15/16, the bitmap makes a sparse layer larger than a dense one.
HIGHEST = 0.9
LOWEST = 0.05
BISECTIONS = 100

Turn = Callable[[np.ndarray, float], np.ndarray]  # wishes, parameter -> densities, which increase with the parameter


@dataclass(frozen=True)
class Share:
    """The parameters that one layer may keep, and the fraction of them for low-rank factors; None: as configured."""

    kept: int
    rank_share: float | None = None


def bounds(density: float, reach: float = 1.0) -> tuple[float, float]:
    """The lowest and highest density of a layer: at most `reach` from the overall `density`."""
    least, most = min(LOWEST, density / 2), max(HIGHEST, density)
    return max(least, density - reach), min(most, density + reach)


def total_kept(sites: Sequence[LinearSite], density: float) -> int:
    """Parameters that all layers keep together."""
    return round(density * sum(site.parameters for site in sites))


def raised(sites: Sequence[LinearSite], wishes: Sequence[float], density: float) -> dict[str, Share]:
    """Densities = wishes + a constant, which preserves their differences."""
    return _met(sites, wishes, density, np.add, (-1.0 - max(wishes), 1.0 - min(wishes)))


def scaled(sites: Sequence[LinearSite], wishes: Sequence[float], density: float) -> dict[str, Share]:
    """Densities = wishes (above 0) * a constant, which preserves their ratios."""
    return _met(sites, wishes, density, np.multiply, (0.0, 1.0 / min(wishes)))


def thinned(sites: Sequence[LinearSite], wishes: Sequence[float], density: float, reach: float) -> dict[str, Share]:
    """Sparsities = wishes (above 0) * a constant, with densities at most `reach` from the mean."""
    return _met(sites, wishes, density, lambda wanted, number: 1 + wanted * number, (-1.0 / min(wishes), 0.0), reach)


def _met(
    sites: Sequence[LinearSite],
    wishes: Sequence[float],
    density: float,
    turn: Turn,
    ends: tuple[float, float],
    reach: float = 1.0,
) -> dict[str, Share]:
    """Bisect between `ends` for the parameter of `turn` with which all layers, within `bounds`, keep total_kept."""
    limits = bounds(density, reach)
    sizes, wanted = np.array([site.parameters for site in sites]), np.array(wishes, dtype=np.float64)
    low, high = ends
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kept = (np.clip(turn(wanted, middle), *limits) * sizes).sum()
        low, high = (middle, high) if kept < density * sizes.sum() else (low, middle)
    whole = _whole(np.clip(turn(wanted, high), *limits) * sizes, total_kept(sites, density))
    return {site.name: Share(kept) for site, kept in zip(sites, whole, strict=True)}


def _whole(amounts: np.ndarray, total: int) -> list[int]:
    """Round to integers with the sum `total`; the amounts with the largest remainders are rounded up."""
    whole = np.floor(amounts).astype(np.int64)
    missing = min(max(0, total - int(whole.sum())), len(whole))
    whole[np.argsort(whole - amounts, kind="stable")[:missing]] += 1
    found: list[int] = whole.tolist()
    return found
