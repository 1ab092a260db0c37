"""The record of one run, written atomically."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, field_validator

from lsprism.errors import DamagedError
from lsprism.old_names import COMMANDS, replace_old_names

State = Literal["queued", "running", "stopping", "stopped", "done", "failed", "lost", "damaged"]
ACTIVE: tuple[State, ...] = ("queued", "running", "stopping")
ENDED: tuple[State, ...] = ("stopped", "done", "failed", "lost")  # lost: ended without recording how
RESUMABLE: tuple[State, ...] = ("stopped", "failed", "lost")  # can be resumed

RECORD, RESERVE, RESERVED_BYTES = "record.json", "reserve", 16384
FULL = (errno.ENOSPC, errno.EDQUOT)


class ProcessId(BaseModel):
    """A process; `created` distinguishes it from a later one with the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float  # seconds since 1970, from psutil


class RunRequest(BaseModel):
    """The command of a run and its settings."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    verb: str
    words: list[str] = []  # arguments of the command
    settings: dict[str, JsonValue] = {}  # the spec that the arguments were made from
    cwd: Path = Path()
    artifact: Path | None = None  # output path
    device: str = ""  # each device has one run at a time; "": needs no device
    origin: Literal["dashboard", "command line"] = "dashboard"

    @field_validator("verb")
    @classmethod
    def _replace_old_command(cls, verb: str) -> str:
        return COMMANDS.get(verb, verb)

    @field_validator("settings")
    @classmethod
    def _replace_old_settings(cls, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return replace_old_names(settings)


class Run(RunRequest):
    """The state of a run. Times are seconds since 1970. Access tokens are never stored here."""

    format: Literal[1] = 1
    id: str
    state: State
    created: float
    queued: float  # position in the queue; later than `created` after a resume
    begun: float | None = None
    ended: float | None = None
    processes: list[ProcessId] = []  # the keeper, if any, comes first
    exit_code: int | None = None
    message: str = ""  # why it failed
    hint: str = ""  # what to do next
    figures: dict[str, JsonValue] = {}  # scalar values of its report
    notes: str = ""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def is_resumable(self) -> bool:
        """Whether the run can be resumed."""
        return self.state in RESUMABLE

    def replace(self, **changes: Any) -> "Run":
        """A copy with these fields changed."""
        return self.model_copy(update=changes)


def read_record(folder: Path) -> Run:
    """FileNotFoundError: no such run. DamagedError: its record cannot be read."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    path = folder / RECORD
    try:
        run = Run.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedError(f"{path} is damaged: {place}{': ' if place else ''}{first['msg']}.", DELETE) from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}.", DELETE) from None
    if run.id != folder.name:
        raise DamagedError(f"{path} is the record of another run, {run.id}.", DELETE)
    return run


DELETE = "Inspect its folder, or delete the run to remove it from the list."


def write_record(folder: Path, run: Run) -> None:
    """Replace the record. On a full disk the reserve file is deleted first to make room. OSError if that fails too."""
    content = run.model_dump_json(indent=2).encode()
    reserve = folder / RESERVE
    try:
        _replace(folder / RECORD, content)
    except OSError as error:
        if error.errno not in FULL or not reserve.exists():
            raise
        reserve.unlink()
        _replace(folder / RECORD, content)
    with suppress(OSError):  # the reserve is optional
        if not run.is_active:
            reserve.unlink(missing_ok=True)
        elif not reserve.exists():
            reserve.write_bytes(b"\n" * RESERVED_BYTES)


def _replace(path: Path, content: bytes) -> None:
    half = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with half.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # otherwise a power cut may leave an empty file
        os.replace(half, path)
    except OSError:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise
