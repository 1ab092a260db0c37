"""A request as arguments of the command line, as settings, and as one line to copy."""

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lsprism.arguments import NAMES, to_arguments
from lsprism.runs.record import RunRequest


def collect_options(spec: BaseModel) -> dict[str, Any]:
    """Option -> value of every field that differs from its default, those of nested specs included."""
    options: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            options |= collect_options(value)
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            options[NAMES.get(name, name)] = value
    return options


def format_argv(spec: BaseModel) -> list[str]:
    """The same as arguments: ['--sparsity', '0.3', '--resume']."""
    return [word for words in to_arguments(collect_options(spec)) for word in words]


def make_request(verb: str, spec: BaseModel, origin: str = "dashboard") -> RunRequest:
    """The run of a command with the settings of `spec`."""
    target = getattr(spec, "save_path", None)
    return RunRequest(
        verb=verb,
        words=format_argv(spec),
        settings=spec.model_dump(mode="json"),
        cwd=Path.cwd(),
        artifact=Path(target).absolute() if target else None,
        device=getattr(spec, "device", ""),
        origin=origin,
    )


def format_command_line(order: RunRequest) -> str:
    """The command, to copy into a shell."""
    return shlex.join(["python", "-m", "lsprism", order.verb, *order.words])
