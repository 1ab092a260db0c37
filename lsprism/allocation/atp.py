"""ATP (Huang et al.: Determining Layer-wise Sparsity for LLMs Through a Theoretical Perspective, 2025).

The error of a block propagates through all later blocks, so the first ones keep the most: sparsity increases linearly
with depth. The paper searches the step by the model's perplexity; here it is a constant.
"""

from lsprism.allocation.normalize import LayerAllocation, shift_to_total
from lsprism.allocation.rule import AllocationRule
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo

SPAN = 0.3  # density of the first block minus that of the last, relative to min(sparsity, density)


def allocate_atp(sites: list[Layer], density: float, _traits: list[LayerSensitivity]) -> dict[str, LayerAllocation]:
    """density_b = density + span * (1/2 - b / (blocks - 1)), b from 0."""
    span, last = SPAN * min(density, 1 - density), max(1, max(site.block for site in sites))
    return shift_to_total(sites, [density + span * (0.5 - site.block / last) for site in sites], density)


INFO = RuleInfo(
    name="atp",
    keeps="the block comes earlier",
    position=30,
)
RULE = AllocationRule(allocate_atp)
