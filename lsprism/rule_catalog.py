"""Every allocation rule, as its file in allocation/ declares it, read without importing PyTorch.

A rule's file has `INFO = RuleInfo(...)` with literal arguments, and `RULE`, an AllocationRule. Another package adds a
rule by an entry point of the group `lsprism.allocation` that names an AllocationRule; its name is read without loading
it.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from lsprism.extensions import check_name, find_entry_points, read_declarations
from lsprism.old_names import VALUES

GROUP = "lsprism.allocation"
FOLDER = Path(__file__).parent / "allocation"


@dataclass(frozen=True)
class RuleInfo:
    """What choices, help and README know about a rule."""

    name: str
    keeps: str  # where a layer keeps more, for the README
    position: int  # in lists


@cache
def list_built_in_rules() -> dict[str, tuple[RuleInfo, str]]:
    """Name -> declaration and module of every rule of this package."""
    found = read_declarations(FOLDER, RuleInfo)
    return {info.name: (info, module) for info, module in sorted(found, key=lambda pair: pair[0].position)}


def list_rule_names() -> list[str]:
    """Names of all rules, those of other packages last."""
    return [*list_built_in_rules(), *sorted(find_added_rules())]


def check_rule_name(name: str) -> str:
    """`name`, which may be auto; ValueError if no rule has it."""
    return check_name(name, ["auto", *list_rule_names()])


def find_added_rules() -> dict[str, EntryPoint]:
    """The rules of other packages. Old names of rules are taken: they are replaced before a request is checked."""
    return find_entry_points(GROUP, ["auto", *VALUES["allocation"], *list_built_in_rules()])
