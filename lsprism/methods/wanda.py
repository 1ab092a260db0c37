"""Wanda (Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, 2023).

Score of a weight: |W_ij| * ||X_j||_2. Prunes the lowest scores of every output row; the other weights are unchanged.
"""

from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.masks import make_mask
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import Sparse
from lsprism.records.model_plan import FormName, LayerBudget


def compute_scores(weight: Tensor, norms: Tensor) -> Tensor:
    """weight [rows, columns], norms [columns] -> float32 scores [rows, columns]."""
    return weight.abs().float() * norms


INFO = MethodInfo(
    name="wanda",
    summary="Sparse: prunes by weight magnitude times input norm. Fast.",
    formula="prunes the lowest \\|W\\| · ‖X‖₂ of each row",
    implementation="Wanda",
    position=40,
    patterns=True,
)


class Wanda:
    info = INFO
    form: FormName = "sparse"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Sparse:
        return Sparse.pack(weight, make_mask(compute_scores(weight, stats.norms), budget))
