"""Compression methods: pure tensor functions, independent of models and files. Each file declares one, see INFO."""

import importlib
from functools import cache

from lsprism.method_catalog import list_built_in, load_added
from lsprism.methods.base import Method
from lsprism.specs import EffortName


class _Methods(dict[str, Method]):
    """Name -> method of this package. Looking up another name loads the method of another package."""

    def __init__(self, names: list[str], **options: bool) -> None:
        super().__init__({name: _get_class(name)(**options) for name in names})
        self.options = options

    def __missing__(self, name: str) -> Method:
        return _make_added(name, **self.options)


@cache
def _make_added(name: str, **options: bool) -> Method:
    method: Method = load_added(name)[1](**options)
    return method


def _get_class(name: str) -> type:
    info, module = list_built_in()[name]
    found: type = getattr(importlib.import_module(module), info.implementation)
    return found


METHODS = _Methods(list(list_built_in()))
BEST = _Methods([name for name, (info, _) in list_built_in().items() if "best" in info.efforts], best=True)


def get_method(name: str, effort: EffortName) -> Method:
    return BEST[name] if effort == "best" else METHODS[name]
