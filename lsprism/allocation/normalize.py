"""Adjusts the densities that a rule asks for, so that all layers together keep the requested total."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lsprism.records.model_plan import Layer

# Densities of a layer. Above about 15/16, the bitmap makes a sparse layer larger than a dense one.
HIGHEST = 0.9
LOWEST = 0.05
BISECTIONS = 100

Rescale = Callable[[np.ndarray, float], np.ndarray]  # wishes, parameter -> densities, which increase with the parameter


@dataclass(frozen=True)
class LayerAllocation:
    """The parameters that one layer may keep, and the fraction of them for low-rank factors; None: as configured."""

    kept: int
    rank_share: float | None = None


def compute_bounds(density: float, reach: float = 1.0) -> tuple[float, float]:
    """The lowest and highest density of a layer: at most `reach` from the overall `density`."""
    least, most = min(LOWEST, density / 2), max(HIGHEST, density)
    return max(least, density - reach), min(most, density + reach)


def compute_total_kept(sites: Sequence[Layer], density: float) -> int:
    """Parameters that all layers keep together."""
    return round(density * sum(site.parameters for site in sites))


def shift_to_total(sites: Sequence[Layer], wishes: Sequence[float], density: float) -> dict[str, LayerAllocation]:
    """Densities = wishes + a constant, which preserves their differences."""
    return _bisect_total(sites, wishes, density, np.add, (-1.0 - max(wishes), 1.0 - min(wishes)))


def scale_to_total(sites: Sequence[Layer], wishes: Sequence[float], density: float) -> dict[str, LayerAllocation]:
    """Densities = wishes (above 0) * a constant, which preserves their ratios."""
    return _bisect_total(sites, wishes, density, np.multiply, (0.0, 1.0 / min(wishes)))


def scale_removed_to_total(
    sites: Sequence[Layer], wishes: Sequence[float], density: float, reach: float
) -> dict[str, LayerAllocation]:
    """Sparsities = wishes (above 0) * a constant, with densities at most `reach` from the mean."""
    return _bisect_total(
        sites, wishes, density, lambda wanted, number: 1 + wanted * number, (-1.0 / min(wishes), 0.0), reach
    )


def _bisect_total(
    sites: Sequence[Layer],
    wishes: Sequence[float],
    density: float,
    turn: Rescale,
    ends: tuple[float, float],
    reach: float = 1.0,
) -> dict[str, LayerAllocation]:
    """Bisect between `ends` for the parameter of `turn` with which all layers, within `compute_bounds`, keep
    compute_total_kept."""
    limits = compute_bounds(density, reach)
    sizes, wanted = np.array([site.parameters for site in sites]), np.array(wishes, dtype=np.float64)
    low, high = ends
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kept = (np.clip(turn(wanted, middle), *limits) * sizes).sum()
        low, high = (middle, high) if kept < density * sizes.sum() else (low, middle)
    whole = _round_to_total(np.clip(turn(wanted, high), *limits) * sizes, compute_total_kept(sites, density))
    return {site.name: LayerAllocation(kept) for site, kept in zip(sites, whole, strict=True)}


def _round_to_total(amounts: np.ndarray, total: int) -> list[int]:
    """Round to integers with the sum `total`; the amounts with the largest remainders are rounded up."""
    whole = np.floor(amounts).astype(np.int64)
    missing = min(max(0, total - int(whole.sum())), len(whole))
    whole[np.argsort(whole - amounts, kind="stable")[:missing]] += 1
    found: list[int] = whole.tolist()
    return found
