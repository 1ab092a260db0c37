"""OATS (Zhang, Papyan: OATS: Outlier-Aware Pruning Through Sparse and Low Rank Decomposition, 2024).

With D = diag(||X_j||_2), alternates between the two parts of W D ~ S + L, starting with S = 0:

    L = the truncated SVD of W D - S
    S = the largest |W D - L| of every row

At the end both are scaled back by D^-1. The paper uses a quarter of the kept parameters for L (--rank-share 0.25) and
80 rounds.
"""

from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.gram import compute_truncated_svd
from lsprism.methods.masks import make_row_mask
from lsprism.methods.stats import InputStats
from lsprism.methods.svd import balance_factors
from lsprism.packed.formats import Sparse, SparseLowRank
from lsprism.records.model_plan import FormName, LayerBudget

ROUNDS = 80
FLOOR = 1e-6  # minimum norm of a feature, relative to the mean norm


INFO = MethodInfo(
    name="oats",
    summary="Sparse + low-rank: alternates pruning and SVD; ignores input correlations. For comparison.",
    formula="OATS: alternates pruning and SVD under diagonal input scaling; a baseline",
    implementation="OATS",
    position=20,
    low_rank=True,
    proxy="wanda",
)


class OATS:
    info = INFO
    form: FormName = "sparse_low_rank"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> SparseLowRank | Sparse:
        """Returns Sparse if the budget has rank 0."""
        scale = stats.norms.clamp_min(FLOOR * stats.norms.mean()) if stats.norms.any() else stats.norms + 1
        full = weight.float() * scale
        nonzeros = budget.kept - budget.rank * sum(weight.shape)
        left, right = full.new_zeros(len(full), 0), full.new_zeros(0, full.shape[1])
        sparse = full.new_zeros(full.shape)
        for _ in range(ROUNDS if budget.rank else 1):
            if budget.rank:
                left, right = compute_truncated_svd(full - sparse, budget.rank)
            rest = full - left @ right
            mask = make_row_mask(rest.abs(), nonzeros)
            sparse = rest * mask
        packed = Sparse.pack((sparse / scale).to(weight.dtype), mask)
        return SparseLowRank(packed, balance_factors(left, right / scale, weight.dtype)) if budget.rank else packed
