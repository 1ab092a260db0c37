"""Compression methods: pure tensor functions, independent of models and files. Each file declares one, see INFO."""

import importlib
from functools import cache

from lsprism.method_catalog import list_built_in, load_added
from lsprism.methods.base import Method
from lsprism.specs import EffortName


class _Methods(dict[str, Method]):
    """Name -> method of this package. Looking up another name loads the method of another package."""

    def __missing__(self, name: str) -> Method:
        return _make_added(name)


@cache
def _make_added(name: str) -> Method:
    method: Method = load_added(name)[1]()
    return method


def _get_class(name: str) -> type:
    info, module = list_built_in()[name]
    found: type = getattr(importlib.import_module(module), info.implementation)
    return found


METHODS = _Methods({name: _get_class(name)() for name in list_built_in()})
BEST: dict[str, Method] = {
    name: _get_class(name)(best=True) for name, (info, _) in list_built_in().items() if "best" in info.efforts
}


def get_method(name: str, effort: EffortName) -> Method:
    return BEST[name] if effort == "best" else METHODS[name]
