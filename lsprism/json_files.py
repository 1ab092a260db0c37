"""The one reader of JSON files: whatever a file holds, the caller gets the shape it asked for or one sentence."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lsprism.errors import LSPrismError, SourceError

RELOAD = "Download or save the model again."
SHOWN = 60  # characters of a wrong value that an error shows
LFS = b"version https://git-lfs"  # begins the few lines that Git leaves where a large file was not fetched
FETCH = "Fetch the file itself: git lfs pull."


class Shape(BaseModel):
    """What a file must hold, as far as it is used; subclasses name the entries, all others pass unchecked."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)


S = TypeVar("S", bound=Shape)


def read_object(
    path: Path, shape: type[Shape] = Shape, error: type[LSPrismError] = SourceError, hint: str = RELOAD
) -> dict[str, Any]:
    """The object in a JSON file, as it is written there, once it is known to fit `shape`."""
    try:
        data = path.read_bytes()
        if data.startswith(LFS):
            raise error(f"{path} is only a Git LFS pointer.", FETCH)
        content = parse(data)
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}.", "Check that it is there and its rights.") from None
    except ValueError as failure:
        raise error(f"{path} is not valid JSON: {failure}.", hint) from None
    if not isinstance(content, dict):
        raise error(f"{path} holds {_short(content)}, not a JSON object.", hint)
    try:
        shape.model_validate(content)
    except ValidationError as failure:
        raise error(f"{path}: {first_fault(failure)}.", hint) from None
    return content


def read_known(path: Path, shape: type[Shape] = Shape) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read and fits `shape`."""
    try:
        return read_object(path, shape)
    except SourceError:
        return {}


def parse(data: bytes) -> Any:
    """The value of a JSON text. ValueError for anything that is none, or holds half a surrogate pair."""
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
            raise ValueError("it holds half of a surrogate pair") from None
    return content


def first_fault(failure: ValidationError) -> str:
    """What is wrong with the first entry that does not fit, and its value."""
    fault = failure.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] == "missing":
        return f"{place} is missing"
    wanted = fault["msg"].removeprefix("Input ").replace("dictionary", "object")
    return f"{place} is {_short(fault['input'])}, which {wanted}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
