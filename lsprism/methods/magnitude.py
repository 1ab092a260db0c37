"""Magnitude pruning (Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Networks, 2015).

Score of a weight: |W_ij|. Prunes the lowest scores of every output row; the remaining weights are unchanged. Needs no
calibration: a baseline for calibrated methods.
"""

from torch import Tensor

from lsprism.methods.masks import make_mask
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import Sparse
from lsprism.reports import FormName, LayerBudget


class Magnitude:
    name = "magnitude"
    label = "Magnitude: keeps the largest weights of each row, without calibration"
    form: FormName = "sparse"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        return Sparse.pack(weight, make_mask(weight.abs().float(), budget))
