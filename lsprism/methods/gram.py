"""The Gram matrix of a layer's inputs and its factors. With H = X^T X and any R with R R^T = H,

    ||X (W - W')^T||_F^2 = tr((W - W') H (W - W')^T) = ||(W - W') R||_F^2,

so the low-rank approximation with the least output error is a truncated SVD of W R, mapped back by R^-1 (SVD-LLM: Wang,
Zheng, Wan, Zhang, 2024). R is chosen upper triangular: then U = R^-1 is also the upper Cholesky factor of
H^-1 = U^T U that SparseGPT needs, and all methods share one factorization.
"""

from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

from lsprism.errors import NumericError

# The diagonal of H is multiplied by 1 + DAMPING: this keeps H invertible and reduces the influence of correlations that
# few tokens support. It is relative to each feature instead of to the mean, so that features with a huge scale do not
# dominate. Output error of SparseGPT at 0.5 on held-out text (demo model, mean of 9 layers): 0.1014 with 0.1, 0.1020
# with 0.01, 0.1022 with the paper's 0.01 of the mean.
DAMPING = 0.1
FLOOR = 1e-6  # minimum of the diagonal, for features that were always zero; the mean of the diagonal is 1


@dataclass(frozen=True)
class GramFactor:
    """H, damped and divided by the mean of its diagonal, and R^-1, where R R^T = H. Both float32 [columns, columns]."""

    gram: Tensor
    inverse: Tensor  # upper triangular
    unit: float = 1.0  # the mean of the diagonal

    def apply_root(self, weight: Tensor) -> Tensor:
        """weight [rows, columns] -> W R. R itself is not stored, to save memory."""
        product: Tensor = torch.linalg.solve_triangular(self.inverse, weight, upper=True, left=False)
        return product


def factorize_gram(gram: Tensor, *, in_place: bool = False) -> GramFactor:
    """Damp and factorize gram [columns, columns] = X^T X, of any rank.

    The damping is multiplied by ten until the factorization succeeds. Raises NumericError if `gram` is not finite.
    """
    mean = gram.diagonal().mean().clone()
    gram = gram if in_place else gram.clone()
    if mean > 0:
        gram /= mean
    if not torch.isfinite(gram.sum()):
        raise NumericError(
            "The Gram matrix of a layer's inputs contains NaN or Inf.",
            "Choose another calibration text.",
        )
    diagonal = gram.diagonal()
    squares = diagonal.clamp(min=FLOOR)
    damping, failed = DAMPING, True
    while failed:
        diagonal.copy_(squares * (1 + damping))
        root, failed = torch.linalg.cholesky_ex(gram.flip(0, 1))  # rotated by 180 degrees: lower becomes upper
        damping *= 10
    root = root.flip(0, 1)
    return GramFactor(gram, _compute_inverse(root), mean.item())


def _compute_inverse(root: Tensor) -> Tensor:
    """The inverse of an upper triangular matrix."""
    if root.device.type == "cpu":
        # LAPACK's strtri skips the zeros, unlike the functions of torch: 1536 x 1536 in 24 ms instead of 58.
        inverse, _ = scipy.linalg.lapack.strtri(root.numpy())
        return torch.from_numpy(inverse)
    solved: Tensor = torch.linalg.solve_triangular(root, torch.eye(len(root), device=root.device), upper=True)
    return solved


def _compute_top_eigenvectors(matrix: Tensor, count: int) -> Tensor:
    """matrix [n, n], symmetric -> [n, count] eigenvectors of the largest eigenvalues, in descending order.

    Raises LinAlgError if they cannot be computed.
    """
    n = len(matrix)
    if matrix.device.type == "cpu" and count <= n // 8:
        # scipy can compute a subset, torch always computes all: 76 of 1536 in 132 ms instead of 303, 192 in 165. From
        # a quarter on this is not faster (144 of 576: 20 ms instead of 17). CUDA would have to copy the matrix first.
        try:
            _, vectors = scipy.linalg.eigh(matrix.numpy(), subset_by_index=(n - count, n - 1), check_finite=False)
        except scipy.linalg.LinAlgError as error:
            raise torch.linalg.LinAlgError(str(error)) from error
        if vectors.shape[1] < count:  # for a matrix with NaN, scipy returns none and does not raise
            raise torch.linalg.LinAlgError("the eigenvectors could not be computed")
        return torch.from_numpy(vectors).flip(1)
    found: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return found[:, -count:].flip(1)


def compute_truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """matrix [rows, columns] -> left [rows, rank], right [rank, columns], the best rank-`rank` approximation.

    Computed from the eigenvectors of the smaller Gram matrix: several times faster than an SVD (576 x 576: 15 ms, not
    105). Small singular values lose half of their digits, but those are truncated.
    """
    rows, columns = matrix.shape
    if rows > columns:
        left, right = compute_truncated_svd(matrix.T, rank)
        return right.T, left.T
    left = _compute_top_eigenvectors(matrix @ matrix.T, rank)
    return left, left.T @ matrix


def compute_weighted_svd(metric: GramFactor, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the rank-`rank` approximation of `weight` [rows, columns] with the least output error.

    It is SVD_r(W R) R^-1.
    """
    left, right = compute_truncated_svd(metric.apply_root(weight), rank)
    return left, right @ metric.inverse


def advance_low_rank(gram: Tensor, weight: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """One step of subspace iteration from `right` [rank, columns] towards `compute_weighted_svd`, in a fraction of its
    time."""
    left, _ = torch.linalg.qr(weight @ (gram @ right.T))
    return left, left.T @ weight
