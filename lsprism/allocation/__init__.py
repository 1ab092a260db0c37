"""Allocation rules: how the kept parameters are distributed over the layers. A file declares one, see INFO and RULE."""

import importlib
from functools import cache

from lsprism.allocation.rule import AllocationRule
from lsprism.errors import SpecError
from lsprism.extensions import load_entry_point
from lsprism.rule_catalog import find_added_rules, list_built_in_rules


class _Rules(dict[str, AllocationRule]):
    """Name -> rule of this package. Looking up another name loads the rule of another package."""

    def __missing__(self, name: str) -> AllocationRule:
        return _load_added(name)


@cache
def _load_added(name: str) -> AllocationRule:
    """SpecError if it cannot be loaded."""
    point = find_added_rules()[name]
    rule = load_entry_point(point, "allocation rule")
    if not isinstance(rule, AllocationRule):
        raise SpecError(f"{point.value} is not an allocation rule.", "Declare it as an AllocationRule.")
    return rule


RULES = _Rules({name: importlib.import_module(module).RULE for name, (_, module) in list_built_in_rules().items()})
