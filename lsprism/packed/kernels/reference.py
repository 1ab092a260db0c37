"""The reference path: plain PyTorch, on any device. The dense matrix exists only during one product."""

import torch.nn.functional as F
from torch import Tensor

from lsprism.packed.formats import Dense, LowRank, PackedWeight, Sparse, SparseLowRank


def compute_linear(x: Tensor, form: PackedWeight, bias: Tensor | None) -> Tensor:
    """x [..., columns] -> [..., rows], in x's dtype: y = W x + bias."""
    match form:
        case Sparse() | Dense():
            return F.linear(x, form.to_dense(), bias)
        case LowRank():
            left, right = form.get_factors()
            return F.linear(F.linear(x, right), left, bias)
        case SparseLowRank(sparse, low_rank):
            left, right = low_rank.get_factors()
            return F.linear(x, sparse.to_dense(), bias) + F.linear(F.linear(x, right), left)
