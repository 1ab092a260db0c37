"""The interface of a compression method."""

from typing import Protocol

from torch import Tensor

from lsprism.method_catalog import MethodInfo
from lsprism.methods.stats import InputStats
from lsprism.packed.formats import PackedWeight
from lsprism.records.model_plan import FormName, LayerBudget


class Method(Protocol):
    """Compresses one weight matrix within a budget."""

    info: MethodInfo
    form: FormName  # format of the packed weight
    needs_gram: bool  # whether `compress` needs X^T X in addition to the column norms
    anchor: float  # fraction of the error compensation to apply, see compensation.py; 0: none

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> PackedWeight:
        """Compress weight [rows, columns], in the model's dtype, to a packed weight that keeps exactly `budget`.

        `stats`: statistics of the layer's inputs.
        """
        ...
