"""Every compression method, as its file in methods/ declares it, read without importing PyTorch.

A method's file has `INFO = MethodInfo(...)` with literal arguments and the class that compresses. Another package adds
a method by an entry point of the group `lsprism.methods` that names a class with the attribute `info`; its name is read
without loading it.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from lsprism.errors import SpecError
from lsprism.extensions import check_name, find_entry_points, load_entry_point, read_declarations

GROUP = "lsprism.methods"
FOLDER = Path(__file__).parent / "methods"


@dataclass(frozen=True)
class MethodInfo:
    """What choices, help, dashboard and README know about a method."""

    name: str
    summary: str  # sentence in the dashboard
    formula: str  # how a weight matrix W with input activations X is compressed, for the README
    implementation: str = ""  # class in the same file; empty: a method of another package
    position: int = 100  # in lists
    low_rank: bool = False  # whether a part of the budget can go to low-rank factors next to a sparse part
    patterns: bool = False  # whether it supports N:M patterns
    efforts: tuple[str, ...] = ("fast",)
    allocation: str = "uniform"  # the rule that `auto` stands for, without a pattern
    proxy: str = ""  # a faster method that measures sensitivities instead


@cache
def list_built_in() -> dict[str, tuple[MethodInfo, str]]:
    """Name -> declaration and module of every method of this package."""
    found = read_declarations(FOLDER, MethodInfo)
    return {info.name: (info, module) for info, module in sorted(found, key=lambda pair: pair[0].position)}


def list_method_names() -> list[str]:
    """Names of all methods, those of other packages last."""
    return [*list_built_in(), *sorted(find_added())]


def list_method_summaries() -> dict[str, str]:
    """Name -> sentence for the dashboard; the name alone if a method of another package cannot be loaded."""
    summaries = {}
    for name in list_method_names():
        summaries[name] = name
        with suppress(SpecError):  # reported when the method is used
            summaries[name] = get_method_info(name).summary
    return summaries


def check_method_name(name: str) -> str:
    """`name`; ValueError if no method has it."""
    return check_name(name, list_method_names())


def get_method_info(name: str) -> MethodInfo:
    """The declaration of a method that exists. SpecError if another package declares it and that fails."""
    known = list_built_in()
    return known[name][0] if name in known else load_added(name)[0]


@cache
def load_added(name: str) -> tuple[MethodInfo, type]:
    """Declaration and class of a method of another package. SpecError if it cannot be loaded."""
    point = find_added()[name]
    method = load_entry_point(point, "method")
    info = getattr(method, "info", None)
    if not isinstance(info, MethodInfo) or info.name != name:
        raise SpecError(f"{point.value} is not a method named {name}.", "Declare it with a MethodInfo of this name.")
    return info, method


def find_added() -> dict[str, EntryPoint]:
    """The methods of other packages."""
    return find_entry_points(GROUP, list_built_in())
