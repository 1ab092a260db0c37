"""Uniform allocation: every layer has the same density."""

from lsprism.budgets.meet import Share
from lsprism.reports import LinearSite, SiteTraits


def uniform(sites: list[LinearSite], density: float, _traits: list[SiteTraits]) -> dict[str, Share]:
    """Every layer keeps round(density * rows * columns) parameters."""
    return {site.name: Share(round(density * site.parameters)) for site in sites}
