"""SparseGPT (Frantar, Alistarh: Massive Language Models Can Be Accurately Pruned in One-Shot, 2023).

With H = X^T X, damped, and U the upper Cholesky factor of H^-1 (see gram.py), columns are processed from left to
right in groups of 128. At the start of a group, its mask is chosen by the weights as updated so far: those with the
lowest W_ij^2 / U_jj^2 are pruned. The columns to the right are updated to compensate for a pruned W_ij:

    E_ij = W_ij / U_jj        W_i,j+1: -= E_ij U_j,j+1:

With an N:M pattern, the mask is chosen for M columns at a time. The number of weights that a group of columns keeps is
its number among the `kept` highest W_ij^2 / U_jj^2 of the original matrix; in the paper all groups keep the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.masks import make_n_of_m_mask, make_top_mask
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import Sparse
from lsprism.records.model_plan import FormName, LayerBudget

BLOCK = 128  # columns between updates of all columns to the right: few large products instead of many small ones

Choose = Callable[[Tensor], Tensor]  # scores [rows, some columns] -> bool mask


def remove_dead_inputs(weight: Tensor, stats: InputStats) -> Tensor:
    """The weight [rows, columns] in float32, with the columns of always-zero inputs set to zero."""
    return weight.float() * (stats.squares > 0)


def prune_columns(weight: Tensor, inverse: Tensor, budget: LayerBudget) -> tuple[Tensor, Tensor]:
    """weight [rows, columns] float32, U [columns, columns] -> S, zero where pruned, and the mask of kept weights."""
    if pattern := budget.pattern:
        return _prune_blocks(weight, inverse, pattern[1], lambda scores: make_n_of_m_mask(scores, *pattern))
    initial = make_top_mask(weight.abs() / inverse.diagonal(), budget.kept)
    shares = iter([part.sum().item() for part in initial.split(BLOCK, dim=1)])
    return _prune_blocks(weight, inverse, BLOCK, lambda scores: make_top_mask(scores, next(shares)))


def _prune_blocks(weight: Tensor, inverse: Tensor, group: int, choose: Choose) -> tuple[Tensor, Tensor]:
    """Prune from left to right; `choose` makes the mask of `group` columns at a time, at most BLOCK."""
    rest = weight.T.contiguous()  # transposed, so that a column is contiguous in memory
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


INFO = MethodInfo(
    name="sparsegpt",
    summary="Sparse: updates the remaining weights to compensate for pruned ones. Slower, often better.",
    formula="prunes, then updates the remaining weights to compensate (second order, blocks of 128 columns)",
    implementation="SparseGPT",
    position=30,
    patterns=True,
    proxy="wanda",
)


class SparseGPT:
    info = INFO
    form: FormName = "sparse"
    needs_gram = True
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        full = remove_dead_inputs(weight, stats)
        sparse, mask = prune_columns(full, stats.metric.inverse, budget)
        return Sparse.pack(sparse.to(weight.dtype), mask)
