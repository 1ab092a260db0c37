"""Sparse + low-rank in one budget: W ~ S + L, kept = non-zeros of S + entries of L's factors.

Minimises ||X (W - S - L)^T||_F with the full Gram matrix H, one part at a time:

    1. places    S = the highest |W - L|_ij * ||X_j||_2;  L = best of rank r for W - S, by subspace iteration   ROUNDS
       (the alternation of OATS: Zhang, Papyan, 2024, there with the diagonal of H only)
    2. pruning   S = SparseGPT of W - L, which chooses its places anew and makes up for what it removes
    3. polish    L = best of rank r for W - S;  S = least squares for W - L on its places;  L once more, exactly
       (refitting the weights of a fixed support by conjugate gradients: ALPS, Meng et al., 2024)
"""

import torch
from torch import Tensor

from lsprism.layers.forms import Sparse, SparseLowRank
from lsprism.methods.masks import CHUNK
from lsprism.methods.metric import Metric, low_rank_in, low_rank_step, metric_of
from lsprism.methods.sparsegpt import SparseGPT, live, sparsified
from lsprism.methods.stats import InputStats
from lsprism.methods.svd import balanced
from lsprism.methods.wanda import scores
from lsprism.reports import FormName, LayerBudget

ROUNDS, POLISH, STEPS, SAMPLE_ROWS = 24, 1, 4, 64
TINY = 1e-30  # where a row is fitted exactly, steps of length 0 / 0 become 0


class Hybrid:
    name = "hybrid"
    label = "Sparse + low-rank: SparseGPT and factors, fitted to each other in the metric of the inputs"
    form: FormName = "sparse_low_rank"
    needs_gram = True

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> SparseLowRank | Sparse:
        if budget.rank == 0:  # the budget cannot pay for one rank
            return SparseGPT().compress(weight, stats, budget)
        full = live(weight, stats)
        nonzeros = budget.kept - budget.rank * sum(weight.shape)
        metric = metric_of(stats.gram)
        left, right = low_rank_beside(full, stats.norms, metric, nonzeros, budget.rank)
        sparse, mask = sparsified(full - left @ right, metric.inverse, nonzeros)
        for _ in range(POLISH):
            left, right = low_rank_step(metric, full - sparse, right)
            sparse = refitted(full - left @ right, sparse, mask, metric)
        left, right = low_rank_in(metric, full - sparse, budget.rank)
        return SparseLowRank(Sparse.pack(sparse.to(weight.dtype), mask), balanced(left, right, weight.dtype))


def low_rank_beside(full: Tensor, norms: Tensor, metric: Metric, nonzeros: int, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the L that goes best with a sparse S of about `nonzeros` entries: step 1 above."""
    rest, right = full.clone(), full[:rank]  # any start will do
    for _ in range(ROUNDS):
        scored = scores(rest, norms)
        rest.mul_(scored > _about(scored, nonzeros))  # S
        left, right = low_rank_step(metric, full - rest, right)
        torch.addmm(full, left, right, alpha=-1, out=rest)  # W - L
    return left, right


def _about(scored: Tensor, kept: int) -> Tensor:
    """A score that about `kept` of all exceed, by a sample of the rows: a tenth of the time of looking at all."""
    sample = scored[:: max(1, len(scored) // SAMPLE_ROWS)].flatten()
    return sample.kthvalue(max(1, round(sample.numel() * (1 - kept / scored.numel())))).values


def refitted(target: Tensor, sparse: Tensor, mask: Tensor, metric: Metric) -> Tensor:
    """A few steps of conjugate gradients from `sparse` towards the S on `mask` with the least error of target - S.

    All [rows, columns]; every row is a problem of its own, preconditioned by the diagonal of H.
    """
    step = max(1, CHUNK // target.shape[1])  # rows at a time
    parts = zip(target.split(step), sparse.split(step), mask.split(step), strict=True)
    return torch.cat([_descend(*part, metric) for part in parts])


def _descend(target: Tensor, sparse: Tensor, mask: Tensor, metric: Metric) -> Tensor:
    places, squares = mask.float(), metric.gram.diagonal()
    residual = ((target - sparse) @ metric.gram).mul_(places)
    direction = residual / squares
    size = _products(residual, direction)
    for _ in range(STEPS):
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
    return torch.linalg.vecdot(a, b).unsqueeze(1)
