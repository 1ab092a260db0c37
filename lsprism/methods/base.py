"""The contract of a method."""

from typing import Protocol

from torch import Tensor

from lsprism.layers.forms import Form
from lsprism.methods.stats import InputStats
from lsprism.reports import FormName, LayerBudget


class Method(Protocol):
    """Turns one weight matrix into a smaller form within a budget."""

    name: str
    label: str  # for people, with the paper
    form: FormName  # what `compress` returns
    needs_gram: bool  # whether X^T X is wanted beside the column norms
    anchor: float  # share of the way from the weight to what makes up for the layers before, see anchor.py; 0: none

    def compress(self, weight: Tensor, stats: InputStats, budget: LayerBudget) -> Form:
        """weight [rows, columns] in the model's dtype, statistics of its inputs -> form that keeps `budget`."""
        ...
