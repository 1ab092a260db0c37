"""Names of options, values and commands from earlier versions: read everywhere, written nowhere."""

from collections.abc import Mapping
from typing import Any

OPTIONS = {"budget": "allocation"}
VALUES = {"allocation": {"harm": "sensitivity", "measured": "error-curves"}}
COMMANDS = {"study": "sweep"}
# By today's name: caches of earlier versions stay valid.
CACHED_AS = {new: old for old, new in VALUES["allocation"].items()}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, with their old names replaced. An old name next to the new one is left, to be refused."""
    current = {OPTIONS.get(name, name) if OPTIONS.get(name) not in settings else name: settings[name] for name in settings}
    for name, values in VALUES.items():
        if isinstance(value := current.get(name), str):
            current[name] = values.get(value, value)
    return current


def rename_fields(data: Any) -> Any:
    """For pydantic, before validation."""
    return with_current_names(data) if isinstance(data, Mapping) else data
