"""The record of one run, and how it gets onto the disk: whole, or as it was before."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from lsprism.errors import DamagedError

State = Literal["queued", "running", "stopping", "stopped", "done", "failed", "lost", "damaged"]
LIVE: tuple[State, ...] = ("queued", "running", "stopping")
ENDED: tuple[State, ...] = ("stopped", "done", "failed", "lost")  # lost: nobody saw how
GOES_ON: tuple[State, ...] = ("stopped", "failed", "lost")  # when resumed

RECORD, RESERVE, RESERVED_BYTES = "record.json", "reserve", 16384
FULL = (errno.ENOSPC, errno.EDQUOT)


class Process(BaseModel):
    """A process and no later one with the same number."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float  # seconds since 1970, as psutil has it


class Order(BaseModel):
    """What a run is to do."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    verb: str
    words: list[str] = []  # of the command line, after the verb
    settings: dict[str, JsonValue] = {}  # the spec that the words were made from
    cwd: Path = Path()
    artifact: Path | None = None  # where the result goes
    device: str = ""  # one run at a time on each; "": needs none
    origin: Literal["dashboard", "command line"] = "dashboard"


class Run(Order):
    """A run as it is. Times are seconds since 1970. No token ever stands here."""

    format: Literal[1] = 1
    id: str
    state: State
    created: float
    queued: float  # its place in the queue; later than `created` once it was resumed
    begun: float | None = None
    ended: float | None = None
    processes: list[Process] = []  # the keeper, if there is one, comes first
    exit_code: int | None = None
    message: str = ""  # why it failed
    hint: str = ""  # the next step
    figures: dict[str, JsonValue] = {}  # the plain values of its report
    notes: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def goes_on(self) -> bool:
        """Whether `resume` has something to resume."""
        return self.state in GOES_ON

    def but(self, **changes: Any) -> "Run":
        """The same run, otherwise in these fields."""
        return self.model_copy(update=changes)


def read_record(folder: Path) -> Run:
    """FileNotFoundError: there is no such run. DamagedError: its record is of no use."""
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


DELETE = "Look into its folder; deleting the run removes it from the list."


def write_record(folder: Path, run: Run) -> None:
    """Replace the record. On a full disk the reserve makes room; OSError where that does not help."""
    content = run.model_dump_json(indent=2).encode()
    reserve = folder / RESERVE
    try:
        _replace(folder / RECORD, content)
    except OSError as error:
        if error.errno not in FULL or not reserve.exists():
            raise
        reserve.unlink()
        _replace(folder / RECORD, content)
    with suppress(OSError):  # without it there is only less to give up
        if not run.live:
            reserve.unlink(missing_ok=True)
        elif not reserve.exists():
            reserve.write_bytes(b"\n" * RESERVED_BYTES)


def _replace(path: Path, content: bytes) -> None:
    half = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with half.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave an empty file under the new name
        os.replace(half, path)
    except OSError:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise
