"""The reference path: plain PyTorch, on any device. The dense matrix exists only during one product."""

import torch.nn.functional as F
from torch import Tensor

from lsprism.layers.forms import Dense, Form, LowRank, Sparse, SparseLowRank


def linear(x: Tensor, form: Form, bias: Tensor | None) -> Tensor:
    """x [..., columns] -> [..., rows], in x's dtype: y = W x + bias."""
    match form:
        case Sparse() | Dense():
            return F.linear(x, form.dense(), bias)
        case LowRank():
            left, right = form.factors()
            return F.linear(F.linear(x, right), left, bias)
        case SparseLowRank(sparse, low_rank):
            left, right = low_rank.factors()
            return F.linear(x, sparse.dense(), bias) + F.linear(F.linear(x, right), left)
