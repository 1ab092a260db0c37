"""Magnitude pruning (Han, Pool, Tran, Dally: Learning both Weights and Connections for Efficient Networks, 2015).

Score of a weight: |W_ij|. Prunes the lowest scores of every output row; the remaining weights are unchanged. Needs no
calibration: a baseline for calibrated methods.
"""

from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.masks import make_mask
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import Sparse
from lsprism.records.model_plan import FormName, LayerBudget

INFO = MethodInfo(
    name="magnitude",
    summary="Sparse: prunes the smallest weights, without calibration. For comparison.",
    formula="prunes the smallest weights of each row; needs no calibration",
    implementation="Magnitude",
    position=50,
    patterns=True,
)


class Magnitude:
    info = INFO
    form: FormName = "sparse"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        return Sparse.pack(weight, make_mask(weight.abs().float(), budget))
