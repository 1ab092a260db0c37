"""Names of options, values and commands from earlier versions: read everywhere, written nowhere."""

from collections.abc import Mapping
from typing import Any

OPTIONS = {"budget": "allocation"}
VALUES = {"allocation": {"harm": "sensitivity", "measured": "error-curves"}}
COMMANDS = {"study": "sweep"}
# By today's name: caches of earlier versions stay valid.
CACHED_AS = {new: old for old, new in VALUES["allocation"].items()}


def replace_old_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, with their old names replaced. An old name next to the new one is left, to be refused."""
    current = {}
    for name, value in settings.items():
        new = OPTIONS.get(name, name)
        current[name if new in settings else new] = value
    for name, values in VALUES.items():
        if isinstance(value := current.get(name), str):
            current[name] = values.get(value, value)
    return current


def rename_fields(data: Any) -> Any:
    """For pydantic, before validation."""
    return replace_old_names(data) if isinstance(data, Mapping) else data
