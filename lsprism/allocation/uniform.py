"""Uniform allocation: every layer has the same density."""

from lsprism.allocation.normalize import LayerAllocation
from lsprism.allocation.rule import AllocationRule
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo


def allocate_uniform(sites: list[Layer], density: float, _traits: list[LayerSensitivity]) -> dict[str, LayerAllocation]:
    """Every layer keeps round(density * rows * columns) parameters."""
    return {site.name: LayerAllocation(round(density * site.parameters)) for site in sites}


INFO = RuleInfo(
    name="uniform",
    keeps="nowhere: every layer keeps the same fraction",
    position=10,
)
RULE = AllocationRule(allocate_uniform)
