"""Command-line options from the fields of a spec, and back: one schema for flags, YAML and defaults."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lsprism.arguments import NAMES
from lsprism.errors import SpecError
from lsprism.method_catalog import list_method_names
from lsprism.metric_declarations import list_added_names
from lsprism.old_names import OPTIONS as OLD_OPTIONS
from lsprism.paths import expand
from lsprism.rule_catalog import list_rule_names
from lsprism.runs.yaml_options import read_options
from lsprism.specs import Request, validate

HIDDEN = [f"--{name}" for name in OLD_OPTIONS]  # accepted, but left out of help and hints

METAVARS = {
    "save_path": "PATH", "calibration": "SOURCE", "dataset": "SOURCE", "baseline": "MODEL", "kernel": "NAME",
    "measures": "LIST", "tasks": "LIST", "zero_shot_tasks": "LIST", "sparsities": "LIST", "prompt_lengths": "LIST",
}  # fmt: skip

R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Option:
    """One field of a spec, as an option."""

    name: str  # with underscores
    path: tuple[str, ...]  # of the field in the spec
    field: FieldInfo

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


class Parser(argparse.ArgumentParser):
    """Invalid options raise a SpecError: one sentence, exit code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def normalize_dashes(argv: list[str]) -> list[str]:
    """Options may also be written with underscores."""
    plain = []
    for word in argv:
        name, equals, value = word.partition("=")
        plain.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    return plain


def list_options(spec: type[BaseModel]) -> list[Option]:
    """All fields in order, those of nested specs included."""
    found = []
    for name, field in spec.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [Option(o.name, (name, *o.path), o.field) for o in list_options(field.annotation)]
        else:
            found.append(Option(NAMES.get(name, name), (name,), field))
    return found


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Values are converted and defaulted by the spec, as for YAML. One option may set two fields."""
    for option in {option.name: option for option in options}.values():
        field = option.field
        if option.name == "model_id":
            parser.add_argument("--model-id", "--model-path", dest="model_id", metavar="MODEL", help=field.description)
        elif field.annotation is bool:
            parser.add_argument(option.flag, action="store_true", default=None, help=field.description)
        else:
            parser.add_argument(option.flag, metavar=_get_metavar(option), help=_format_help(option).replace("%", "%%"))
    for old, new in OLD_OPTIONS.items():
        if any(option.name == new for option in options):
            parser.add_argument(f"--{old}", dest=new, help=argparse.SUPPRESS)


def collect_options(options: argparse.Namespace, known: list[Option]) -> dict[str, Any]:
    """The options from the YAML file of --config and the command line, which takes precedence; nested like the spec."""
    config = getattr(options, "config", None)
    said: dict[str, Any] = {}
    if config:
        path = expand(config)
        said |= read_options(path, [option.name for option in known], f"--config {path}")
    said |= {o.name: value for o in known if (value := getattr(options, o.name, None)) is not None}
    nested: dict[str, Any] = {}
    for option in known:
        if option.name in said:
            inner = nested
            for step in option.path[:-1]:
                inner = inner.setdefault(step, {})
            inner[option.path[-1]] = said[option.name]
    return nested


def build_spec(spec: type[R], fields: dict[str, Any]) -> R:
    """The validated request; SpecError names a required option that is missing."""
    for option in list_options(spec):
        if option.field.is_required() and option.name not in fields:
            raise SpecError(f"{option.flag} is missing.", f"Give it a value: {option.field.description}.")
    return validate(spec, **fields)


def _get_metavar(option: Option) -> str:
    """{a,b} for a choice, N for a number, else METAVARS, else the option's last word."""
    kind = option.field.annotation
    if option.name == "method":
        return "{" + ",".join(list_method_names()) + "}"
    if option.name == "allocation":
        return "{" + ",".join(["auto", *list_rule_names()]) + "}"
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return "N" if kind in (int, float) else METAVARS.get(option.name, option.name.rpartition("_")[2].upper())


def _format_help(option: Option) -> str:
    field = option.field
    added = list_added_names() if option.name == "measures" else []
    notes = [_format_range(field)] if _format_range(field) else []
    if not field.is_required() and field.default not in ("", None):
        value = field.default
        notes.append(f"default {','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ", ".join([field.description or "", *added]) + (f" ({'; '.join(notes)})" if notes else "")


def _format_range(field: FieldInfo) -> str:
    """'1 to 65536', 'above 0, below 1', or an empty string."""
    low = high = ""
    for bound in field.metadata:
        match bound:
            case at.Ge(ge=value):
                low = f"{value}"
            case at.Gt(gt=value):
                low = f"above {value}"
            case at.Le(le=value):
                high = f"{value}"
            case at.Lt(lt=value) if value < 2**63:
                high = f"below {value}"
    if low and high:
        return f"{low} to {high}" if high.isdigit() else f"{low}, {high}"
    return f"{low} or more" if low else high
