"""Sparse + low-rank in one budget: W ~ S + L, kept = non-zeros of S + entries of L's factors.

Alternates as OATS does (Zhang, Papyan: Outlier-Aware Pruning Through Sparse and Low Rank Decomposition, 2024), but with
the full Gram matrix H for the low-rank part:
    L = best rank-r approximation of W - S in the metric of H (closed form, see metric.py)
    S = entries of W - L with the highest |W - L|_ij * ||X_j||_2, row by row
"""

from torch import Tensor

from lsprism.layers.forms import Sparse, SparseLowRank
from lsprism.methods.masks import keep_per_row
from lsprism.methods.metric import low_rank_in, metric_of
from lsprism.methods.stats import InputStats
from lsprism.methods.svd import balanced
from lsprism.methods.wanda import scores
from lsprism.reports import FormName, LayerBudget

ROUNDS = 8


class Hybrid:
    name = "hybrid"
    label = "Sparse + low-rank: Wanda's places and factors in the metric of the inputs"
    form: FormName = "sparse_low_rank"
    needs_gram = True

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> SparseLowRank | Sparse:
        if budget.rank == 0:  # the budget cannot pay for one rank
            return Sparse.pack(weight, keep_per_row(scores(weight, stats.norms), budget.kept))
        full = weight.float()
        nonzeros = budget.kept - budget.rank * sum(weight.shape)
        metric, norms = metric_of(stats.gram), stats.norms
        rest = full  # W - L
        for _ in range(ROUNDS):
            mask = keep_per_row(scores(rest, norms), nonzeros)
            left, right = low_rank_in(metric, full - rest * mask, budget.rank)
            rest = full - left @ right
        mask = keep_per_row(scores(rest, norms), nonzeros)
        factors = balanced(left, right, weight.dtype)
        return SparseLowRank(Sparse.pack((full - factors.dense().float()).to(weight.dtype), mask), factors)
