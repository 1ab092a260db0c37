"""By the singular values of the weights: what is spread over many directions keeps more.

density ~ effective rank / number of singular values, the effective rank being exp of the entropy of the values' shares
(Roy, Vetterli: The Effective Rank, 2007).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lsprism.budgets.meet import Share, scaled
from lsprism.budgets.seen import Seen
from lsprism.reports import LinearSite, SiteTraits


def singular_values(weight: Tensor) -> Tensor:
    """weight [rows, columns] -> [min(rows, columns)], float32, the largest first."""
    values: Tensor = torch.linalg.svdvals(weight.float())
    return values.cpu()


def effective_rank(values: Tensor) -> float:
    """Between 1 and their number; 1 for a matrix of zeros."""
    share = values.double() / values.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(block: list[Seen]) -> Iterator[SiteTraits]:
    for seen in block:
        yield SiteTraits(name=seen.site.name, effective_rank=effective_rank(singular_values(seen.weight)))


def spectrum(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    wishes = [seen.effective_rank / min(site.rows, site.columns) for site, seen in zip(sites, traits, strict=True)]
    return scaled(sites, wishes, density)
