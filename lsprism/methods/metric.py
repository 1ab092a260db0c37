"""The metric of the inputs: with H = X^T X, ||(W - W') X^T||_F^2 = tr((W - W') H (W - W')^T) = ||(W - W') R||_F^2 for
any R with R R^T = H. A best low-rank approximation in that metric is a truncated SVD of W R, mapped back by R^-1
(SVD-LLM: Wang, Zheng, Wan, Zhang, 2024, by Cholesky; here by the eigenvectors of H, which exist for any H)."""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-4  # share of the mean diagonal added to H: keeps R invertible for dead or dependent features


@dataclass(frozen=True)
class Metric:
    """root [columns, columns] = H^1/2 and its inverse, float32, symmetric."""

    root: Tensor
    inverse: Tensor


def metric_of(gram: Tensor) -> Metric:
    """gram [columns, columns] = X^T X -> its symmetric root, damped. A zero matrix gives the identity."""
    mean = gram.diagonal().mean()
    if not mean > 0:
        eye = torch.eye(gram.shape[0], device=gram.device)
        return Metric(eye, eye)
    damped = gram / mean
    damped.diagonal().add_(DAMPING)
    values, vectors = torch.linalg.eigh(damped)
    roots = values.clamp_min(DAMPING / 2).sqrt()  # rounding can push small eigenvalues below the damping
    return Metric((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """matrix [rows, columns] -> left [rows, rank], right [rank, columns], the best rank-`rank` approximation.

    Through the eigenvectors of the smaller Gram matrix: several times faster than an SVD. Small singular values lose
    half the digits that way; those are the ones that are cut.
    """
    rows, columns = matrix.shape
    if rows > columns:
        left, right = truncated_svd(matrix.T, rank)
        return right.T, left.T
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    left = vectors[:, -rank:].flip(1)  # [rows, rank], largest first
    return left, left.T @ matrix


def low_rank_in(metric: Metric, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the rank-`rank` matrix nearest to `weight` [rows, columns] in the metric: SVD_r(W R) R^-1."""
    left, right = truncated_svd(weight @ metric.root, rank)
    return left, right @ metric.inverse
