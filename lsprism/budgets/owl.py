"""OWL (Yin et al.: Outlier Weighed Layerwise Sparsity, 2024): blocks with more outliers keep more.

An outlier is a Wanda score |W_ij| * ||X_j||_2 above M times the mean of all scores of its block. With D_b the fraction
of outliers in block b, rescaled over the blocks to [0, 2 lambda]: density_b = density + D_b - a constant, which makes
the total fit.
"""

from collections import defaultdict
from collections.abc import Iterator

from torch import Tensor

from lsprism.budgets.meet import Share, raised
from lsprism.budgets.seen import Seen
from lsprism.methods.wanda import scores
from lsprism.reports import LinearSite, SiteTraits

M, LAMBDA = 5.0, 0.08


def outliers(block: list[Seen]) -> Iterator[SiteTraits]:
    """Compute the fraction of outliers of each layer of a block."""
    count = max(1, sum(seen.site.parameters for seen in block))  # a block may have no layers to compress
    total = sum((_scores(seen).sum(dtype=seen.inputs.squares.dtype).item() for seen in block), start=0.0)
    mean = total / count
    for seen in block:
        above = (_scores(seen) > M * mean).double().mean().item()
        yield SiteTraits(name=seen.site.name, outlier_share=above)


def _scores(seen: Seen) -> Tensor:
    return scores(seen.weight, seen.inputs.norms)


def owl(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    """Allocate by outliers; `traits` are the results of `outliers`."""
    found: dict[int, float] = defaultdict(float)
    sizes: dict[int, int] = defaultdict(int)
    for site, seen in zip(sites, traits, strict=True):
        found[site.block] += seen.outlier_share * site.parameters
        sizes[site.block] += site.parameters
    shares = {block: found[block] / sizes[block] for block in sizes}
    least, spread = min(shares.values()), max(shares.values()) - min(shares.values())
    stretch = 2 * LAMBDA / spread if spread else 0.0
    return raised(sites, [density + stretch * (shares[site.block] - least) for site in sites], density)
