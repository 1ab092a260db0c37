"""ATP (Huang et al.: Determining Layer-wise Sparsity for LLMs Through a Theoretical Perspective, 2025).

The error of a block adds to those of all blocks after it, so the first ones keep the most: sparsity rises with depth in
equal steps. The paper searches the step on the model's perplexity; here it is one number for all.
"""

from lsprism.budgets.meet import Share, raised
from lsprism.reports import LinearSite, SiteTraits

SPAN = 0.3  # of the smaller of sparsity and density: by how much the last block is sparser than the first


def atp(sites: list[LinearSite], density: float, _traits: list[SiteTraits]) -> dict[str, Share]:
    """density_b = density + span * (1/2 - b / (blocks - 1)), b from 0."""
    span, last = SPAN * min(density, 1 - density), max(1, max(site.block for site in sites))
    return raised(sites, [density + span * (0.5 - site.block / last) for site in sites], density)
