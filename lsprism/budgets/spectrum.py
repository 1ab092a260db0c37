"""Allocation by effective rank: layers whose weights spread over many directions keep more.

density ~ effective rank / number of singular values. The effective rank is exp(entropy) of the singular values,
normalized to sum 1 (Roy, Vetterli: The Effective Rank, 2007).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lsprism.budgets.meet import Share, scaled
from lsprism.budgets.seen import Seen
from lsprism.reports import LinearSite, SiteTraits


def singular_values(weight: Tensor) -> Tensor:
    """weight [rows, columns] -> singular values [min(rows, columns)], float32, in descending order."""
    values: Tensor = torch.linalg.svdvals(weight.float())
    return values.cpu()


def effective_rank(values: Tensor) -> float:
    """Singular values [n] -> effective rank in [1, n]; 1 for a matrix of zeros."""
    share = values.double() / values.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(block: list[Seen]) -> Iterator[SiteTraits]:
    """Compute the effective rank of each layer of a block."""
    for seen in block:
        yield SiteTraits(name=seen.site.name, effective_rank=effective_rank(singular_values(seen.weight)))


def spectrum(sites: list[LinearSite], density: float, traits: list[SiteTraits]) -> dict[str, Share]:
    """Allocate by effective ranks; `traits` are the results of `effective_ranks`."""
    wishes = [seen.effective_rank / min(site.rows, site.columns) for site, seen in zip(sites, traits, strict=True)]
    return scaled(sites, wishes, density)
