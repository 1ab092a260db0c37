"""The events of a run (events.jsonl, one line per event, append-only) and its log."""

import errno
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from lsprism.events import Event

EVENTS, LOG = "events.jsonl", "log"
LAST_BYTES = 16384  # searched for the newest progress


class LoggedEvent(BaseModel):
    """An event and its time in seconds since 1970: one line of the file."""

    model_config = ConfigDict(frozen=True)

    at: float
    event: Event


class EventPage(NamedTuple):
    moments: tuple[LoggedEvent, ...]
    offset: int  # in bytes; the next read starts here


class EventLog:
    """The only writer of a run's events."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / EVENTS).open("ab+", buffering=0)
        size = self.file.seek(0, os.SEEK_END)
        if size:
            self.file.seek(size - 1)
            if self.file.read(1) != b"\n":  # the last line was cut short by a kill
                self._write(b"\n")

    def add(self, event: Any) -> None:
        """Append one event; OSError if it cannot be written."""
        body = event.model_dump_json()
        self._write(f'{{"at":{time.time():.3f},"event":{body}}}\n'.encode())

    def close(self) -> None:
        self.file.close()

    def _write(self, line: bytes) -> None:
        if self.file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_events(folder: Path, offset: int = 0) -> EventPage:
    """Events from `offset` on; if nothing was added, only the file's size is read.

    A line that is damaged or from a later version is skipped; an incomplete last line is left for the next read.
    """
    path = folder / EVENTS
    try:
        size = path.stat().st_size
        if size == offset:
            return EventPage((), offset)
        if size < offset:  # started over
            offset = 0
        with path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read()
    except OSError:
        return EventPage((), 0)
    whole = content[: content.rfind(b"\n") + 1]
    found = (_parse_event(line) for line in whole.split(b"\n") if line)
    return EventPage(tuple(moment for moment in found if moment is not None), offset + len(whole))


def find_latest_progress(folder: Path) -> LoggedEvent | None:
    """The newest progress event, read from the end of the file."""
    for line in reversed(_read_last_bytes(folder / EVENTS, LAST_BYTES).split(b"\n")):
        if b'"kind":"progress"' in line and (moment := _parse_event(line)):
            return moment
    return None


def read_log(folder: Path, last_bytes: int) -> str:
    """The end of the log, starting at a whole line."""
    content = _read_last_bytes(folder / LOG, last_bytes + 1)
    if len(content) > last_bytes:
        content = content[content.find(b"\n") + 1 :]
    return content.decode(errors="replace")


def extract_values(report: Any) -> dict[str, JsonValue]:
    """The scalar values of any report by dotted name; lists are left out."""
    return dict(_flatten(report.model_dump(mode="json")))


def _flatten(values: dict[str, Any], before: str = "") -> list[tuple[str, JsonValue]]:
    found: list[tuple[str, JsonValue]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{before}{name}.")
        elif not isinstance(value, list):
            found.append((before + name, value))
    return found


def _parse_event(line: bytes) -> LoggedEvent | None:
    try:
        return LoggedEvent.model_validate_json(line)
    except ValidationError:
        return None


def _read_last_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - count))
            return stream.read()
    except OSError:
        return b""
