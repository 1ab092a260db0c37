"""The metric of the inputs. With H = X^T X and any R with R R^T = H,

    ||X (W - W')^T||_F^2 = tr((W - W') H (W - W')^T) = ||(W - W') R||_F^2,

so a best low-rank approximation in that metric is a truncated SVD of W R, mapped back by R^-1 (SVD-LLM: Wang, Zheng,
Wan, Zhang, 2024). R is taken upper triangular: then U = R^-1 is at once the upper Cholesky factor of H^-1 = U^T U that
SparseGPT asks for, and one factorisation serves every method.
"""

from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

from lsprism.errors import NumericError

# Share by which every feature's own square is raised: keeps H invertible, and trusts correlations less that were seen
# on few tokens. Relative to the feature, not to the mean of all, a feature of huge scale drowns no other. Output error
# of SparseGPT at 0.5 on text that was not calibrated on (demo model, mean of 9 layers): 0.1014 with 0.1, 0.1020 with
# 0.01, 0.1022 with the paper's 0.01 of the mean.
DAMPING = 0.1
FLOOR = 1e-6  # a feature that was never seen counts as one of this square; the mean square is 1


@dataclass(frozen=True)
class Metric:
    """float32 [columns, columns]: H, damped, in units of its mean diagonal; R^-1, where R R^T = H, upper triangular."""

    gram: Tensor
    inverse: Tensor
    unit: float = 1.0  # the mean diagonal

    def rooted(self, weight: Tensor) -> Tensor:
        """weight [rows, columns] -> W R. R itself is not kept: these matrices are the largest there are."""
        product: Tensor = torch.linalg.solve_triangular(self.inverse, weight, upper=True, left=False)
        return product


def metric_of(gram: Tensor, *, in_place: bool = False) -> Metric:
    """gram [columns, columns] = X^T X, of any rank. Should the damping not suffice, it is raised tenfold until it does.

    Raises NumericError where the gram matrix is not finite.
    """
    mean = gram.diagonal().mean().clone()
    gram = gram if in_place else gram.clone()
    if mean > 0:
        gram /= mean
    if not torch.isfinite(gram.sum()):
        raise NumericError(
            "The inputs of a layer are not finite numbers, or their products are not.",
            "Choose another calibration text.",
        )
    diagonal = gram.diagonal()
    squares = diagonal.clamp(min=FLOOR)
    damping, failed = DAMPING, True
    while failed:
        diagonal.copy_(squares * (1 + damping))
        root, failed = torch.linalg.cholesky_ex(gram.flip(0, 1))  # turned by 180 degrees, its lower factor is our upper
        damping *= 10
    root = root.flip(0, 1)
    return Metric(gram, _inverse(root), mean.item())


def _inverse(root: Tensor) -> Tensor:
    """Of an upper triangular matrix: an upper triangular one."""
    if root.device.type == "cpu":
        # LAPACK's strtri leaves the zeros out, which no function of torch does: 1536 x 1536 in 24 ms against 58.
        inverse, _ = scipy.linalg.lapack.strtri(root.numpy())
        return torch.from_numpy(inverse)
    solved: Tensor = torch.linalg.solve_triangular(root, torch.eye(len(root), device=root.device), upper=True)
    return solved


def _top_eigenvectors(matrix: Tensor, count: int) -> Tensor:
    """matrix [n, n], symmetric -> [n, count], those of the largest eigenvalues first. Raises LinAlgError."""
    n = len(matrix)
    if matrix.device.type == "cpu" and count <= n // 8:
        # scipy finds a few of them alone, torch always all: 76 of 1536 in 132 ms against 303, 192 in 165. From a
        # quarter on that no longer pays (144 of 576: 20 ms against 17). CUDA would have to move the matrix first.
        try:
            _, vectors = scipy.linalg.eigh(matrix.numpy(), subset_by_index=(n - count, n - 1), check_finite=False)
        except scipy.linalg.LinAlgError as error:
            raise torch.linalg.LinAlgError(str(error)) from error
        if vectors.shape[1] < count:  # of a matrix that is not finite it finds none, and says nothing
            raise torch.linalg.LinAlgError("the eigenvectors were not found")
        return torch.from_numpy(vectors).flip(1)
    found: Tensor = torch.linalg.eigh(matrix).eigenvectors
    return found[:, -count:].flip(1)


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """matrix [rows, columns] -> left [rows, rank], right [rank, columns], the best rank-`rank` approximation.

    Through the eigenvectors of the smaller Gram matrix: several times faster than an SVD (576 x 576: 15 ms against
    105). Small singular values lose half the digits that way; those are the ones that are cut.
    """
    rows, columns = matrix.shape
    if rows > columns:
        left, right = truncated_svd(matrix.T, rank)
        return right.T, left.T
    left = _top_eigenvectors(matrix @ matrix.T, rank)
    return left, left.T @ matrix


def low_rank_in(metric: Metric, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the rank-`rank` matrix nearest to `weight` [rows, columns] in the metric: SVD_r(W R) R^-1."""
    left, right = truncated_svd(metric.rooted(weight), rank)
    return left, right @ metric.inverse


def low_rank_step(gram: Tensor, weight: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """One step of subspace iteration from `right` [rank, columns] towards the same: a fraction of its time."""
    left, _ = torch.linalg.qr(weight @ (gram @ right.T))
    return left, left.T @ weight
