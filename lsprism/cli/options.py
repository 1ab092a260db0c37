"""Options from the fields of a spec, and back: one schema for flags, YAML and defaults."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lsprism.errors import SpecError

_YAML = "Give a YAML file of `option: value` lines."
NAMES = {"source": "calibration"}  # a nested field's option, where its own name would say too little


class Parser(argparse.ArgumentParser):
    """Wrong options are one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def dashed(argv: list[str]) -> list[str]:
    """Every option may be written with underscores too."""
    plain = []
    for word in argv:
        name, equals, value = word.partition("=")
        plain.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    return plain


def add_fields(parser: argparse.ArgumentParser, spec: type[BaseModel]) -> None:
    """One option per field. Nothing is converted or defaulted here: the spec does that, for YAML alike."""
    for name, field in spec.model_fields.items():
        if _nested(field):
            add_fields(parser, field.annotation)
        elif name == "model_id":
            parser.add_argument("--model-id", "--model-path", dest="model_id", metavar="MODEL", help=field.description)
        elif field.annotation is bool:
            parser.add_argument(_flag(name), action="store_true", default=None, help=field.description)
        else:
            default = "" if field.is_required() or field.default == "" else f" (default {field.default})"
            parser.add_argument(_flag(name), metavar="X", help=f"{field.description}{default}".replace("%", "%%"))


def fields_of(options: argparse.Namespace, spec: type[BaseModel]) -> dict[str, Any]:
    """What was given on the command line, over what the YAML file of --config says, nested as the spec is."""
    config = getattr(options, "config", None)
    return _merged(read_config(Path(config)) if config else {}, _given(options, spec))


def read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"--config {path} cannot be read: {error}.", _YAML) from None
    if not isinstance(content, dict):
        raise SpecError(f"--config {path} holds no options.", _YAML)
    return content


def _given(options: argparse.Namespace, spec: type[BaseModel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in spec.model_fields.items():
        if _nested(field):
            if inner := _given(options, field.annotation):
                found[name] = inner
        elif (value := getattr(options, NAMES.get(name, name), None)) is not None:
            found[name] = value
    return found


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _nested(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _flag(name: str) -> str:
    return "--" + NAMES.get(name, name).replace("_", "-")
