"""Error compensation: the weight to approximate, given the inputs that a layer receives in the compressed model.

A layer of the compressed model receives inputs X' instead of the dense model's X. The matrix T that comes closest to
the dense model's outputs, min ||X W^T - X' T^T||_F, is

    T = W (I + C H^-1),    C = (X - X')^T X',    H = X'^T X', damped.

Compressing T instead of W, with the statistics of X', therefore targets those outputs. (Known as asymmetric calibration
or anchoring: GPTAQ, Li et al., 2025; AA-SVD, 2026.) Only a fraction of the correction is applied, because C is fitted
to the calibration data.
"""

import torch
from torch import Tensor

from lsprism.methods.masks import CHUNK
from lsprism.methods.stats import InputStats


def compute_compensated_weight(weight: Tensor, stats: InputStats, share: float) -> Tensor:
    """W + share * (T - W) for weight [rows, columns], in its dtype. `stats` of X' provide C as their `drift`."""
    if not share or stats.drift is None:
        return weight
    inverse, share = stats.metric.inverse, share / max(stats.metric.unit, TINY)  # in the units of the Gram matrix
    target = torch.empty_like(weight)
    step = max(1, CHUNK // weight.shape[1])
    for start in range(0, len(weight), step):
        full = weight[start : start + step].float()
        target[start : start + step] = full.addmm(full @ stats.drift @ inverse.T, inverse, alpha=share)  # H^-1 = U^T U
    return target


TINY = 1e-30
