"""ATP (Huang et al.: Determining Layer-wise Sparsity for LLMs Through a Theoretical Perspective, 2025).

The error of a block propagates through all later blocks, so the first ones keep the most: sparsity increases linearly
with depth. The paper searches the step by the model's perplexity; here it is a constant.
"""

from lsprism.budgets.meet import Share, raised
from lsprism.reports import LinearSite, SiteTraits

SPAN = 0.3  # density of the first block minus that of the last, relative to min(sparsity, density)


def atp(sites: list[LinearSite], density: float, _traits: list[SiteTraits]) -> dict[str, Share]:
    """density_b = density + span * (1/2 - b / (blocks - 1)), b from 0."""
    span, last = SPAN * min(density, 1 - density), max(1, max(site.block for site in sites))
    return raised(sites, [density + span * (0.5 - site.block / last) for site in sites], density)
