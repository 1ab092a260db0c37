"""Uniform allocation: every layer has the same density."""

from lsprism.allocation.normalize import LayerAllocation
from lsprism.reports import Layer, LayerSensitivity


def allocate_uniform(sites: list[Layer], density: float, _traits: list[LayerSensitivity]) -> dict[str, LayerAllocation]:
    """Every layer keeps round(density * rows * columns) parameters."""
    return {site.name: LayerAllocation(round(density * site.parameters)) for site in sites}
