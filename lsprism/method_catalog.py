"""Every compression method, as its file in methods/ declares it, read without importing PyTorch.

A method's file has `INFO = MethodInfo(...)` with literal arguments and the class that compresses. Another package adds
a method by an entry point of the group `lsprism.methods` that names a class with the attribute `info`; its name is read
without loading it.
"""

import ast
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from lsprism.errors import SpecError

GROUP = "lsprism.methods"
FOLDER = Path(__file__).parent / "methods"
DECLARATION = re.compile(r"^INFO = (MethodInfo\(.*?^\))", re.DOTALL | re.MULTILINE)


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
    found = []
    for path in FOLDER.glob("*.py"):
        declaration = DECLARATION.search(path.read_text(encoding="utf-8"))
        if declaration:
            call = ast.parse(declaration[1], mode="eval").body
            assert isinstance(call, ast.Call)
            values = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
            found.append((MethodInfo(**values), f"lsprism.methods.{path.stem}"))
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
    names = list_method_names()
    if name in names:
        return name
    *others, last = map(repr, names)
    raise ValueError(f"input should be {', '.join(others)} or {last}")


def get_method_info(name: str) -> MethodInfo:
    """The declaration of a method that exists. SpecError if another package declares it and that fails."""
    known = list_built_in()
    return known[name][0] if name in known else load_added(name)[0]


@cache
def load_added(name: str) -> tuple[MethodInfo, type]:
    """Declaration and class of a method of another package. SpecError if it cannot be loaded."""
    point = find_added()[name]
    try:
        method = point.load()
    except Exception as error:
        raise SpecError(f"The method {name} cannot be loaded: {error}.", f"Check {point.value}.") from error
    info = getattr(method, "info", None)
    if not isinstance(info, MethodInfo) or info.name != name:
        raise SpecError(f"{point.value} is not a method named {name}.", "Declare it with a MethodInfo of this name.")
    return info, method


def find_added() -> dict[str, EntryPoint]:
    """The entry points of other packages, without names that are taken or cannot be part of a file name."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    known = list_built_in()
    return {name: p for name, p in found.items() if name not in known and re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)}
