"""Reads JSON files: returns content of the expected structure or raises an error with one sentence."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lsprism.errors import LSPrismError, SourceError

RELOAD = "Download or save the model again."
SHOWN = 60  # maximum characters of a wrong value in an error
LFS = b"version https://git-lfs"  # the first line of a Git LFS pointer starts so
FETCH = "Download the file itself: git lfs pull."


class Shape(BaseModel):
    """Expected entries of a file; subclasses declare them, all other entries are not checked."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)


S = TypeVar("S", bound=Shape)


def read_object(
    path: Path, shape: type[Shape] = Shape, error: type[LSPrismError] = SourceError, hint: str = RELOAD
) -> dict[str, Any]:
    """Read the object in a JSON file and check it against `shape`; it is returned unchanged. Raises `error`."""
    try:
        data = path.read_bytes()
        if data.startswith(LFS):
            raise error(f"{path} is only a Git LFS pointer.", FETCH)
        content = parse(data)
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}.", "Check the path and its permissions.") from None
    except ValueError as failure:
        raise error(f"{path} is not valid JSON: {failure}.", hint) from None
    if not isinstance(content, dict):
        raise error(f"{path} contains {_format_short(content)}, not a JSON object.", hint)
    try:
        shape.model_validate(content)
    except ValidationError as failure:
        raise error(f"{path}: {find_first_fault(failure)}.", hint) from None
    return content


def read_known(path: Path, shape: type[Shape] = Shape) -> dict[str, Any]:
    """The object in a JSON file; empty if it cannot be read or does not match `shape`."""
    try:
        return read_object(path, shape)
    except SourceError:
        return {}


def parse(data: bytes) -> Any:
    """Parse JSON text. Raises ValueError if it is invalid or contains a lone surrogate."""
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as failure:
        raise ValueError(f"byte {failure.start} is not UTF-8") from None
    if b"\\ud" in data.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it contains a lone surrogate") from None
    return content


def find_first_fault(failure: ValidationError) -> str:
    """Describe the first invalid entry, with its value."""
    fault = failure.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "missing":
        return f"{place} is missing"
    wanted = fault["msg"].removeprefix("Input ").replace("dictionary", "object")
    return f"{place} is {_format_short(fault['input'])}, which {wanted}"


def _format_short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
