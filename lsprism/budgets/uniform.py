"""The uniform rule: every layer keeps the same share of its parameters."""

from lsprism.budgets.meet import Share
from lsprism.reports import LinearSite, SiteTraits


def uniform(sites: list[LinearSite], density: float, _traits: list[SiteTraits]) -> dict[str, Share]:
    """Every site keeps round(density * rows * columns)."""
    return {site.name: Share(round(density * site.parameters)) for site in sites}
