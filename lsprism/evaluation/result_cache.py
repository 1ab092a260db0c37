"""Cache of finished metrics, one file each, so that an interrupted evaluation can be resumed.

The key of a metric is everything it depends on: the fingerprint of the model's files and the settings.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lsprism.artifact.shards import write_atomic
from lsprism.evaluation.progress import Part

T = TypeVar("T")


class ResultCache:
    """Cached results in memory, and in `folder` if given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}

    def load_or_run(self, kind: Any, key: dict[str, Any], steps: Callable[[], Part[T]]) -> Part[T]:
        """Return the cached result for `key` as a `kind` (a type for pydantic); otherwise run steps() and cache it.

        key["measure"] is the name of the metric.
        """
        name, adapter = _make_name(key), TypeAdapter(kind)
        text = self._read(name)
        if text is not None:
            try:
                return adapter.validate_json(text)
            except ValidationError:
                pass  # written by another version: computed again
        value = yield from steps()
        self._write(name, adapter.dump_json(value).decode())
        return value

    def _read(self, name: str) -> str | None:
        if name not in self.known and self.folder is not None:
            with suppress(OSError, ValueError):  # missing or damaged: computed again
                self.known[name] = (self.folder / name).read_text(encoding="utf-8")
        return self.known.get(name)

    def _write(self, name: str, text: str) -> None:
        self.known[name] = text
        if self.folder is not None:
            write_atomic(self.folder / name, text)


def _make_name(key: dict[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True, default=str)
    return f"{key['measure']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
