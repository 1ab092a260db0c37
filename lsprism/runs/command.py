"""A request as words of the command line, as settings, and as one line to copy."""

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lsprism.runs.record import Order

NAMES = {"source": "calibration"}  # a nested field's option, where its own name would say too little


def options_of(spec: BaseModel) -> dict[str, Any]:
    """What the spec says beyond its defaults, by the names of the options, those of nested specs too."""
    said: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            said |= options_of(value)
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            said[NAMES.get(name, name)] = value
    return said


def words_of(spec: BaseModel) -> list[str]:
    """The same as words: `--sparsity 0.3 --resume`. Values that begin with a dash stand behind '='."""
    words: list[str] = []
    for name, value in options_of(spec).items():
        flag = "--" + name.replace("_", "-")
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def order_of(verb: str, spec: BaseModel, origin: str = "dashboard") -> Order:
    """The run that a spec asks for."""
    target = getattr(spec, "save_path", None)
    return Order(
        verb=verb,
        words=words_of(spec),
        settings=spec.model_dump(mode="json"),
        cwd=Path.cwd(),
        artifact=Path(target).absolute() if target else None,
        device=getattr(spec, "device", ""),
        origin=origin,
    )


def line_of(order: Order) -> str:
    """The command, to copy into a shell."""
    return shlex.join(["python", "-m", "lsprism", order.verb, *order.words])
