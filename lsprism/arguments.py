"""Settings as arguments of the command line."""

from collections.abc import Mapping
from typing import Any

NAMES = {"source": "calibration"}  # field -> option, where the field's own name says too little outside its group


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value, with the fields of nested groups (calibration, measuring) next to the others."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value) if isinstance(value, Mapping) else {name: value}
    return flat


def to_arguments(settings: Mapping[str, Any]) -> list[list[str]]:
    """The words of each option: ['--sparsity', '0.3'], ['--resume']. None and False need no option.

    A value that begins with a dash is joined to its option by '='.
    """
    found = []
    for name, value in settings.items():
        flag = "--" + NAMES.get(name, name).replace("_", "-")
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if value is True:
            found.append([flag])
        elif value is not None and value is not False:
            found.append([f"{flag}={text}"] if text.startswith("-") else [flag, text])
    return found
