"""Two parts of one matrix, W ~ S + L, fitted to each other in the metric of the inputs; the places of S are given.

Each half step is the least squares fit of one part to what the other leaves, so that the loss
tr((W - S - L) H (W - S - L)^T) never rises:

    L   best of its rank for W - S, in closed form (metric.low_rank_in)
    S   best on its places for W - L, by conjugate gradients (ALPS: Meng, Behdin, Wang, Mazumder, 2024)
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsprism.methods.masks import CHUNK
from lsprism.methods.metric import Metric, low_rank_in

TINY = 1e-30  # where a row is fitted exactly, steps of length 0 / 0 become 0


@dataclass(frozen=True)
class Parts:
    """float32: S [rows, columns], zero outside mask [rows, columns]; L = left [rows, rank] @ right [rank, columns]."""

    sparse: Tensor
    mask: Tensor
    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def low_rank(self) -> Tensor:
        return self.left @ self.right


def refit(full: Tensor, parts: Parts, metric: Metric, rounds: int, steps: int) -> Parts:
    """S by `steps` of conjugate gradients, then L, `rounds` times. Without a rank: S alone. S stays in its memory."""
    step = max(1, CHUNK // full.shape[1])
    for _ in range(rounds):
        for start in range(0, len(full), step):
            rows = slice(start, start + step)
            target = full[rows] - parts.left[rows] @ parts.right
            parts.sparse[rows] = refitted(target, parts.sparse[rows], parts.mask[rows], metric, steps)
        parts = refit_factors(full, parts, metric)
    return parts


def refit_factors(full: Tensor, parts: Parts, metric: Metric) -> Parts:
    """The best L for W - S."""
    if not parts.rank:
        return parts
    left, right = low_rank_in(metric, full - parts.sparse, parts.rank)
    return replace(parts, left=left, right=right)


def refitted(target: Tensor, sparse: Tensor, mask: Tensor, metric: Metric, steps: int) -> Tensor:
    """`steps` of conjugate gradients from `sparse` towards the S on `mask` with the least error of target - S.

    All [rows, columns]; every row is a problem of its own, preconditioned by the diagonal of H.
    """
    places, squares = mask.float(), metric.gram.diagonal()
    residual = ((target - sparse) @ metric.gram).mul_(places)
    direction = residual / squares
    size = _products(residual, direction)
    for _ in range(steps):
        image = (direction @ metric.gram).mul_(places)
        length = size / _products(direction, image).clamp_min(TINY)
        sparse = sparse.addcmul(direction, length)
        residual.addcmul_(image, length, value=-1)
        downhill = residual / squares
        before, size = size, _products(residual, downhill)
        direction = downhill.addcmul_(direction, size / before.clamp_min(TINY))
    return sparse


def _products(a: Tensor, b: Tensor) -> Tensor:
    """[rows, 1] inner product of every row of `a` with that of `b`."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products.unsqueeze(1)
