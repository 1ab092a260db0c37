"""Joint optimization of S and L by the alternating direction method of multipliers (ADMM), weighted by the Gram matrix.

(Sparse alone: ALPS, Meng, Behdin, Wang, Mazumder, 2024; with a low-rank part: 3BASiL, Makni, Behdin, Mazumder, 2025.)

In units in which every input feature has length 1, with H the Gram matrix in these units. The sparse part has two
copies: B, which is unconstrained, and S, which satisfies the sparsity constraint. The multipliers U pull them together,
more strongly for larger rho:

    T = W - L
    B = argmin tr((T - B) H (T - B)^T) + rho ||B - S + U||^2  =  T - (T - S + U) Q,    Q = rho (H + rho I)^-1
    S = the highest |B + U|,    U = U + B - S
    L = one step of subspace iteration towards the best rank-r approximation of W - B

A fit S + L is a fixed point of this if U = (T - S) H / rho outside the mask of S, and 0 inside: the initial value.
"""

import torch
from torch import Tensor

from lsprism.methods.gram import GramFactor, advance_low_rank
from lsprism.methods.masks import make_global_mask
from lsprism.methods.refit import SparseLowRankFit
from lsprism.records.model_plan import LayerBudget

STEPS = 120  # in total
STAGES = 12  # rho is raised from stage to stage
SOFT, HARD = 0.3, 1.0  # first and last rho, relative to the squared norm of a feature


def optimize_jointly(
    full: Tensor, parts: SparseLowRankFit, metric: GramFactor, pattern: tuple[int, int] | None = None
) -> SparseLowRankFit:
    """Improve the fit `parts` of full [rows, columns], including its mask; keeps the number of non-zeros and the rank.

    With an N:M `pattern`, the new mask follows it.
    """
    units = metric.gram.diagonal().sqrt()
    gram = metric.gram / units / units.unsqueeze(1)
    whole, sparse, right = full * units, parts.sparse * units, parts.right * units
    left, mask, wanted = parts.left, parts.mask, LayerBudget(kept=int(parts.mask.sum()), pattern=pattern)
    rest = whole - left @ right  # T
    rho, duals = SOFT, ((rest - sparse) @ gram).mul_(~mask).div_(SOFT)  # U
    for stage in range(STAGES):
        before, rho = rho, SOFT * (HARD / SOFT) ** (stage / max(1, STAGES - 1))
        duals.mul_(before / rho)
        pull = _compute_proximal(gram, rho)
        for _ in range(STEPS // STAGES):
            free = torch.addmm(rest, (rest - sparse).add_(duals), pull, alpha=-1)  # B
            duals.add_(free)
            mask = make_global_mask(duals.abs(), wanted)
            torch.mul(duals, mask, out=sparse)
            duals.sub_(sparse)
            if parts.rank:
                left, right = advance_low_rank(gram, whole - free, right)
                torch.addmm(whole, left, right, alpha=-1, out=rest)
    return SparseLowRankFit(sparse / units, mask, left, right / units)


def _compute_proximal(gram: Tensor, rho: float) -> Tensor:
    """Q = rho (H + rho I)^-1."""
    raised = gram.clone()
    raised.diagonal().add_(rho)
    return torch.cholesky_inverse(torch.linalg.cholesky(raised)).mul_(rho)
