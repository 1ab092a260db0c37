"""The allocation rule first-and-last: the first and the last block keep more, all others the same."""

from lsprism.allocation.normalize import shift_to_total
from lsprism.allocation.rule import AllocationRule

MORE = 0.1  # density of the first and the last block above that of the others


def allocate(layers, density, measurements):
    """Layers of the model, their overall density -> what each keeps; the total is exact."""
    ends = {0, max(layer.block for layer in layers)}
    desired = [density + MORE * (layer.block in ends) for layer in layers]
    return shift_to_total(layers, desired, density)


RULE = AllocationRule(allocate)
