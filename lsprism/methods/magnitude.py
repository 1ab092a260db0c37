"""Magnitude pruning (Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Networks, 2015).

Score of a weight: |W_ij|. In every output row the lowest are removed; what stays is unchanged. Looks at no input: the
reference that calibrated methods are held against.
"""

from torch import Tensor

from lsprism.layers.forms import Sparse
from lsprism.methods.masks import keep
from lsprism.methods.stats import InputStats
from lsprism.reports import FormName, LayerBudget


class Magnitude:
    name = "magnitude"
    label = "Magnitude: the largest weights of every row, whatever the inputs"
    form: FormName = "sparse"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        return Sparse.pack(weight, keep(weight.abs().float(), budget))
