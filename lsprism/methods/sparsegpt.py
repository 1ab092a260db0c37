"""SparseGPT (Frantar, Alistarh: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023).

With H = X^T X, damped, and U the upper Cholesky factor of H^-1 (see metric.py), columns are taken from left to right,
in blocks of 128. At the start of a block its places are chosen on the weights as they are by then: those with the
lowest W_ij^2 / U_jj^2 are removed. Removing W_ij costs an error that the columns to the right make up for:

    E_ij = W_ij / U_jj        W_i,j+1: -= E_ij U_j,j+1:

An n:m pattern is chosen group by group instead. How many a block keeps follows from the whole matrix: as many as stand
in it among the `kept` highest W_ij^2 / U_jj^2 of the untouched weights. The paper gives every block the same share.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lsprism.layers.forms import Sparse
from lsprism.methods.masks import keep_best, keep_n_of_m
from lsprism.methods.stats import InputStats
from lsprism.reports import FormName, LayerBudget

BLOCK = 128  # columns between two updates of all columns to the right: few large products instead of many small ones

Choose = Callable[[Tensor], Tensor]  # scores [rows, some columns] -> bool mask


def live(weight: Tensor, stats: InputStats) -> Tensor:
    """The weight [rows, columns] in float32, without what meets an input that was always zero."""
    return weight.float() * (stats.squares > 0)


def sparsified(weight: Tensor, inverse: Tensor, budget: LayerBudget) -> tuple[Tensor, Tensor]:
    """weight [rows, columns] float32, U [columns, columns] -> S, zero where removed, and the mask of what is kept."""
    if pattern := budget.pattern:
        return _sweep(weight, inverse, pattern[1], lambda scores: keep_n_of_m(scores, *pattern))
    initial = keep_best(weight.abs() / inverse.diagonal(), budget.kept)
    shares = iter([part.sum().item() for part in initial.split(BLOCK, dim=1)])
    return _sweep(weight, inverse, BLOCK, lambda scores: keep_best(scores, next(shares)))


def _sweep(weight: Tensor, inverse: Tensor, group: int, choose: Choose) -> tuple[Tensor, Tensor]:
    """Left to right; `choose` is asked once per `group` columns, which divide a block."""
    rest = weight.T.contiguous()  # column j is row j here: contiguous in memory
    columns, rows = rest.shape
    scale = inverse.diagonal().unsqueeze(1)
    mask = torch.empty(columns, rows, dtype=torch.bool, device=rest.device)
    errors = torch.empty(BLOCK, rows, device=rest.device)
    for start in range(0, columns, BLOCK // group * group):
        end = min(start + BLOCK // group * group, columns)
        for j in range(start, end):
            if (j - start) % group == 0:
                part = slice(j, min(j + group, end))
                mask[part] = choose((rest[part].abs() / scale[part]).T).T
            error = torch.div(rest[j], scale[j], out=errors[j - start]).masked_fill_(mask[j], 0)
            rest[j].masked_fill_(~mask[j], 0)
            rest[j + 1 : end].addr_(inverse[j, j + 1 : end], error, alpha=-1)
        rest[end:].addmm_(inverse[start:end, end:].T, errors[: end - start], alpha=-1)
    return rest.T, mask.T


class SparseGPT:
    name = "sparsegpt"
    label = "SparseGPT: what stays makes up for what is removed"
    form: FormName = "sparse"
    needs_gram = True
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        full = live(weight, stats)
        sparse, mask = sparsified(full, stats.metric.inverse, budget)
        return Sparse.pack(sparse.to(weight.dtype), mask)
