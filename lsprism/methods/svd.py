"""Whitened SVD (SVD-LLM: Wang, Zheng, Wan, Zhang: Truncation-aware Singular Value Decomposition, 2024).

With H = X^T X = R R^T the factors are those of the truncated SVD of W R, times R^-1 on the right: of all matrices of
that rank, the one with the least output error on the calibration inputs. The rank follows from the budget:
kept / (rows + columns).
"""

import torch
from torch import Tensor

from lsprism.layers.forms import LowRank
from lsprism.methods.metric import low_rank_in
from lsprism.methods.stats import InputStats
from lsprism.reports import FormName, LayerBudget


def balanced(left: Tensor, right: Tensor, dtype: torch.dtype) -> LowRank:
    """The same product with columns of `left` and rows of `right` of equal norm, so that both round alike."""
    scale = (torch.linalg.vector_norm(left, dim=0) / torch.linalg.vector_norm(right, dim=1).clamp_min(1e-30)).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return LowRank((left / scale).to(dtype).contiguous(), (right * scale.unsqueeze(1)).to(dtype).contiguous())


class SVD:
    name = "svd"
    label = "Whitened SVD: two factors in the metric of the inputs"
    form: FormName = "low_rank"
    needs_gram = True
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> LowRank:
        left, right = low_rank_in(stats.metric, weight.float(), budget.rank)
        return balanced(left, right, weight.dtype)
