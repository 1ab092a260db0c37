"""Plain truncated SVD (Eckart, Young: The approximation of one matrix by another of lower rank, 1936).

W ~ U_r S_r V_r^T: of all matrices of rank r, the nearest in ||W - W'||_F. Needs no calibration: a baseline for whitened
SVD.
"""

from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.gram import compute_truncated_svd
from lsprism.methods.stats import InputStats
from lsprism.methods.svd import balance_factors
from lsprism.packed.formats import LowRank
from lsprism.records.model_plan import FormName, LayerBudget

INFO = MethodInfo(
    name="svd-plain",
    summary="Low-rank: plain SVD, without calibration. For comparison.",
    formula="truncated SVD of W alone",
    implementation="PlainSVD",
    position=70,
)


class PlainSVD:
    info = INFO
    form: FormName = "low_rank"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> LowRank:
        return balance_factors(*compute_truncated_svd(weight.float(), budget.rank), weight.dtype)
