"""Small matrices and inputs with a known structure, for the tests of methods."""

import torch
from torch import Tensor

from lsprism.methods.gram import GramFactor
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import PackedWeight


def root_of(metric: GramFactor) -> Tensor:
    """R [columns, columns], computed independently of the metric."""
    return torch.linalg.inv(metric.inverse.double()).float()


def stats_of(x: Tensor) -> InputStats:
    """Statistics of the inputs x [tokens, columns]."""
    stats = InputStats(x.shape[1], gram=True, batches=1)
    stats.add(x)
    return stats


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(columns: int, *, tokens: int = 600, correlated: bool = True, spread: float = 1.0, seed: int = 0) -> Tensor:
    """x [tokens, columns]. correlated: features share a few latent factors. spread: decades between their scales."""
    x = random(tokens, columns, seed=seed)
    if correlated:
        causes = max(1, columns // 8)
        x = 0.5 * x + random(tokens, causes, seed=seed + 1) @ random(causes, columns, seed=seed + 2)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(seed + 3))
    return x * torch.logspace(-spread / 2, spread / 2, columns)[order]


def low_rank_plus_sparse(rows: int, columns: int, rank: int, share: float) -> Tensor:
    """A low-rank matrix plus a fraction `share` of large entries and some noise."""
    outliers = random(rows, columns, seed=7) * 3 * (torch.rand(rows, columns, generator=_generator(8)) < share)
    return random(rows, rank, seed=5) @ random(rank, columns, seed=6) + outliers + 0.2 * random(rows, columns, seed=9)


def output_error(weight: Tensor, form: PackedWeight, x: Tensor) -> float:
    """||X (W - W')^T||_F / ||X W^T||_F over all of x."""
    lost = x.double() @ (weight.double() - form.to_dense().double()).T
    return (lost.norm() / (x.double() @ weight.double().T).norm()).item()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
