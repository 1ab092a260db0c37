"""What methods, allocation rules and metrics share: declarations in files, and entry points of other packages."""

import ast
import re
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from lsprism.errors import SpecError

T = TypeVar("T")


def read_declarations(folder: Path, kind: type[T]) -> list[tuple[T, str]]:
    """The `INFO = KIND(...)` of each file in `folder`, read without importing it, and the name of the file's module.

    Its arguments are literals.
    """
    declaration = re.compile(rf"^INFO = ({kind.__name__}\(.*?^\))", re.DOTALL | re.MULTILINE)
    found = []
    for path in sorted(folder.glob("*.py")):
        if match := declaration.search(path.read_text(encoding="utf-8")):
            call = ast.parse(match[1], mode="eval").body
            assert isinstance(call, ast.Call)
            arguments = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
            found.append((kind(**arguments), f"lsprism.{folder.name}.{path.stem}"))
    return found


def find_entry_points(group: str, taken: Collection[str]) -> dict[str, EntryPoint]:
    """The entry points of other packages, without names that are taken or cannot be part of a list or a file name."""
    found = {point.name: point for point in entry_points(group=group)}
    return {name: p for name, p in found.items() if name not in taken and re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)}


def load_entry_point(point: EntryPoint, what: str) -> Any:
    """The object that an entry point names. SpecError if its package fails."""
    try:
        return point.load()
    except Exception as error:
        raise SpecError(f"The {what} {point.name} cannot be loaded: {error}.", f"Check {point.value}.") from error


def check_name(name: str, names: Collection[str]) -> str:
    """`name`; ValueError if it is not one of `names`."""
    if name in names:
        return name
    *others, last = map(repr, names)
    raise ValueError(f"input should be {', '.join(others)} or {last}")
