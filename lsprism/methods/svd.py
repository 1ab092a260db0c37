"""Whitened SVD (SVD-LLM: Wang, Zheng, Wan, Zhang: Truncation-aware Singular Value Decomposition, 2024).

With H = X^T X = R R^T, the low-rank factors are those of the truncated SVD of W R, multiplied by R^-1 from the right.
Of all matrices of that rank, this one has the least output error on the calibration inputs. The rank follows from the
budget: kept / (rows + columns).
"""

import torch
from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.gram import compute_weighted_svd
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import LowRank
from lsprism.records.model_plan import FormName, LayerBudget


def balance_factors(left: Tensor, right: Tensor, dtype: torch.dtype) -> LowRank:
    """Rescale the factors so that columns of `left` and rows of `right` have equal norms; minimizes rounding errors."""
    scale = (torch.linalg.vector_norm(left, dim=0) / torch.linalg.vector_norm(right, dim=1).clamp_min(1e-30)).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return LowRank((left / scale).to(dtype).contiguous(), (right * scale.unsqueeze(1)).to(dtype).contiguous())


INFO = MethodInfo(
    name="svd",
    summary="Low-rank: replaces each weight matrix by two thin factors, fitted to the calibration data.",
    formula="truncated SVD, whitened by XᵀX",
    implementation="SVD",
    position=60,
)


class SVD:
    info = INFO
    form: FormName = "low_rank"
    needs_gram = True
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> LowRank:
        left, right = compute_weighted_svd(stats.metric, weight.float(), budget.rank)
        return balance_factors(left, right, weight.dtype)
