"""The uniform rule: every layer keeps the same share of its parameters."""

from lsprism.reports import LinearSite


def uniform(sites: list[LinearSite], sparsity: float) -> dict[str, int]:
    """Site name -> parameters kept: round((1 - sparsity) * rows * columns)."""
    return {site.name: round((1 - sparsity) * site.parameters) for site in sites}
