"""Takes the weight out of a linear site and puts a module in its place."""

from torch import Tensor, nn

from lsprism.reports import LinearSite


def weight_of(model: nn.Module, site: LinearSite) -> Tensor:
    """[rows, columns], whichever way the module stores it."""
    weight = model.get_submodule(site.name).weight
    return weight.T.contiguous() if site.transposed else weight.detach()


def place(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at the path `name`."""
    model.set_submodule(name, module)
