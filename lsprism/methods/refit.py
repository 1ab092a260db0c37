"""Refit of the two parts of W ~ S + L to each other, weighted by the Gram matrix H, with a fixed mask of S.

Each half step is a least squares fit of one part to the residual of the other, so the loss
tr((W - S - L) H (W - S - L)^T) never increases:

    L   best rank-r fit of W - S, in closed form (metric.compute_weighted_svd)
    S   best fit of W - L on the mask, by conjugate gradients (ALPS: Meng, Behdin, Wang, Mazumder, 2024)
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsprism.methods.gram import GramFactor, compute_weighted_svd
from lsprism.methods.masks import CHUNK

TINY = 1e-30  # makes the step length 0 instead of 0 / 0 for a row that is already fitted exactly


@dataclass(frozen=True)
class SparseLowRankFit:
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


def refit(full: Tensor, parts: SparseLowRankFit, metric: GramFactor, rounds: int, steps: int) -> SparseLowRankFit:
    """Refit S by `steps` of conjugate gradients, then L if there is a rank; `rounds` times. Overwrites parts.sparse."""
    step = max(1, CHUNK // full.shape[1])
    for _ in range(rounds):
        for start in range(0, len(full), step):
            rows = slice(start, start + step)
            target = full[rows] - parts.left[rows] @ parts.right
            parts.sparse[rows] = refit_values(target, parts.sparse[rows], parts.mask[rows], metric, steps)
        parts = refit_factors(full, parts, metric)
    return parts


def refit_factors(full: Tensor, parts: SparseLowRankFit, metric: GramFactor) -> SparseLowRankFit:
    """Replace L by the best fit of W - S."""
    if not parts.rank:
        return parts
    left, right = compute_weighted_svd(metric, full - parts.sparse, parts.rank)
    return replace(parts, left=left, right=right)


def refit_values(target: Tensor, sparse: Tensor, mask: Tensor, metric: GramFactor, steps: int) -> Tensor:
    """Run `steps` of conjugate gradients from `sparse` towards the S on `mask` that best fits `target`.

    All are [rows, columns]. Every row is an independent problem, preconditioned by the diagonal of H.
    """
    places, squares = mask.float(), metric.gram.diagonal()
    residual = ((target - sparse) @ metric.gram).mul_(places)
    direction = residual / squares
    size = _compute_row_products(residual, direction)
    for _ in range(steps):
        image = (direction @ metric.gram).mul_(places)
        length = size / _compute_row_products(direction, image).clamp_min(TINY)
        sparse = sparse.addcmul(direction, length)
        residual.addcmul_(image, length, value=-1)
        downhill = residual / squares
        before, size = size, _compute_row_products(residual, downhill)
        direction = downhill.addcmul_(direction, size / before.clamp_min(TINY))
    return sparse


def _compute_row_products(a: Tensor, b: Tensor) -> Tensor:
    """[rows, 1] inner product of every row of `a` with the same row of `b`."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products.unsqueeze(1)
