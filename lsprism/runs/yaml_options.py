"""Options from a YAML file: one reader for `--config` and for the dashboard."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lsprism.arguments import NAMES
from lsprism.errors import SpecError
from lsprism.old_names import OPTIONS

# Other spellings of an option, used where the option itself is known.
ALIASES = {"model_path": "model_id", **OPTIONS, **NAMES}
HINT = "Give a YAML file of lines 'option: value', such as 'sparsity: 0.5'."


class _Texts(yaml.BaseLoader):
    """Keeps every value as text, as on the command line (YAML 1.1 would read 2:4 as 124, to base 60).

    Only null and a bare ~ become None, which leaves an option at its default.
    """


_Texts.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Texts.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def read_options(path: Path, names: Iterable[str], source: str) -> dict[str, str]:
    """The options in a file; SpecError where it cannot be read. See `parse_options`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SpecError(f"{source} cannot be read: {_format_one_line(error)}.", HINT) from None
    return parse_options(text, names, source)


def parse_options(text: str, names: Iterable[str], source: str) -> dict[str, str]:
    """Options by name, with dashes or underscores; their values as text. The calibration may be nested.

    SpecError for a key that is not one of `names`; `source` is what errors call the file.
    """
    try:
        content = yaml.load(text, Loader=_Texts)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise SpecError(f"{source} cannot be read: {_format_one_line(error)}.", HINT) from None
    if not isinstance(content, dict):
        raise SpecError(f"{source} holds no options.", HINT)
    names, found = list(names), {}
    for key, value in _flatten(content):
        name = str(key).replace("-", "_")
        name = name if name in names else ALIASES.get(name, name)
        if name not in names:
            near = suggest_option(name, names)
            raise SpecError(f"{source} has the unknown option {key!r}.", near or f"Choose from {', '.join(names)}.")
        if value is None:
            continue
        if not isinstance(value, str):
            raise SpecError(f"{source}: {key} takes one value, got {value!r}.", HINT)
        found[name] = value
    return found


def _flatten(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of the calibration may be grouped under its name, as they are in the spec."""
    for key, value in content.items():
        if key in NAMES.values() and isinstance(value, dict):
            yield from ((NAMES.get(str(inner), str(inner)), found) for inner, found in value.items())
        else:
            yield key, value


def suggest_option(name: str, names: Iterable[str]) -> str:
    """A hint at the option that was probably meant, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"Did you mean {near[0]}?" if near else ""


def _format_one_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")
