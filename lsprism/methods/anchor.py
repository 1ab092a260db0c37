"""Targets that make up for the layers before: what a layer should do with the inputs that it is going to meet.

A layer of the compressed model meets inputs X' where the dense model's layer met X. Of all matrices, the one that comes
nearest to the dense model's answers, ||X W^T - X' T^T||_F, is

    T = W (I + C H^-1),    C = (X - X')^T X',    H = X'^T X' damped,

and compressing T instead of W with the statistics of X' goes for those answers. (Known as asymmetric calibration or
anchoring: GPTAQ, Li et al., 2025; AA-SVD, 2026.) Only a share of the way is gone, for C holds what the calibration
happened to show.
"""

import torch
from torch import Tensor

from lsprism.methods.masks import CHUNK
from lsprism.methods.stats import InputStats


def anchored(weight: Tensor, stats: InputStats, share: float) -> Tensor:
    """`share` of the way from weight [rows, columns] to T, in its dtype; `stats` of X' know C as their drift."""
    if not share or stats.drift is None:
        return weight
    inverse, share = stats.metric.inverse, share / max(stats.metric.unit, TINY)  # in the units of the metric
    target = torch.empty_like(weight)
    step = max(1, CHUNK // weight.shape[1])
    for start in range(0, len(weight), step):
        full = weight[start : start + step].float()
        target[start : start + step] = full.addmm(full @ stats.drift @ inverse.T, inverse, alpha=share)  # H^-1 = U^T U
    return target


TINY = 1e-30
