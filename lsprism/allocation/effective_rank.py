"""Allocation by effective rank: layers whose weights spread over many directions keep more.

density ~ effective rank / number of singular values. The effective rank is exp(entropy) of the singular values,
normalized to sum 1 (Roy, Vetterli: The Effective Rank, 2007).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import LayerAllocation, scale_to_total
from lsprism.allocation.rule import AllocationRule
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo


def compute_singular_values(weight: Tensor) -> Tensor:
    """weight [rows, columns] -> singular values [min(rows, columns)], float32, in descending order."""
    values: Tensor = torch.linalg.svdvals(weight.float())
    return values.cpu()


def compute_effective_rank(values: Tensor) -> float:
    """Singular values [n] -> effective rank in [1, n]; 1 for a matrix of zeros."""
    share = values.double() / values.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


def measure_effective_ranks(block: list[LayerInputs]) -> Iterator[LayerSensitivity]:
    """Compute the effective rank of each layer of a block."""
    for seen in block:
        yield LayerSensitivity(
            name=seen.site.name, effective_rank=compute_effective_rank(compute_singular_values(seen.weight))
        )


def allocate_by_spectrum(
    sites: list[Layer], density: float, traits: list[LayerSensitivity]
) -> dict[str, LayerAllocation]:
    """Allocate by effective ranks; `traits` are the results of `measure_effective_ranks`."""
    wishes = [seen.effective_rank / min(site.rows, site.columns) for site, seen in zip(sites, traits, strict=True)]
    return scale_to_total(sites, wishes, density)


INFO = RuleInfo(
    name="spectrum",
    keeps="singular values are spread wider, by their entropy",
    position=40,
)
RULE = AllocationRule(allocate_by_spectrum, "weights", lambda block, _: measure_effective_ranks(block))
