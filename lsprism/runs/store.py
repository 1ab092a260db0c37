"""All runs in a state folder: list, read, change (under one lock), annotate, delete."""

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lsprism.artifact.manifest import MANIFEST, RECIPE
from lsprism.errors import DamagedError, DiskError, RequestError, SpecError
from lsprism.events import Progress
from lsprism.paths import expand, get_sibling
from lsprism.runs.event_log import EventPage, find_latest_progress, read_events, read_log
from lsprism.runs.process import is_any_alive
from lsprism.runs.record import RECORD, Run, RunRequest, read_record, write_record
from lsprism.runs.state_folder import get_state_folder, translate_os_errors

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
STARTING_S = 20.0  # how long a new run may be without a process
ENDING_S = 10.0  # how long a process may outlive the end of its work
LOCK_S = 10.0  # a change takes milliseconds; a process that holds the lock this long hangs


class RunStore:
    """The runs in `home` (default: the state folder). Several processes may read and change them concurrently."""

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = expand(home).absolute() if home else get_state_folder()
        self.folder = self.home / "runs"
        self._seen: dict[str, tuple[tuple[int, ...], Run]] = {}  # id -> stamp of the file, parsed record
        self._shown: dict[str, Run] = {}
        self._all: tuple[Run, ...] = ()

    def list_all(self) -> tuple[Run, ...]:
        """Newest first. While nothing changes, this returns the identical tuple of identical records."""
        try:
            names = [entry.name for entry in self.folder.iterdir() if ID.fullmatch(entry.name)]
        except OSError:
            names = []
        found = [run for name in names if (run := self._read_run(name)) is not None]
        found.sort(key=lambda run: (run.created, run.id), reverse=True)
        if len(found) != len(self._all) or any(a is not b for a, b in zip(found, self._all, strict=True)):
            self._all = tuple(found)
        return self._all

    def get(self, run_id: str) -> Run:
        """One run; SpecError if there is none with this id."""
        run = self._read_run(run_id) if ID.fullmatch(run_id) else None
        if run is None:
            raise SpecError(f"Run {run_id!r} does not exist.", "See the list of runs.")
        return run

    def get_folder(self, run_id: str) -> Path:
        """The folder of a run; it may not exist any more."""
        assert ID.fullmatch(run_id)
        return self.folder / run_id

    def find_ahead(self, run: Run) -> list[Run]:
        """The runs that a queued run waits for: active on its device, or queued there before it."""
        if not run.device:
            return []
        mine = (run.queued, run.id)
        return [
            other
            for other in self.list_all()
            if other.id != run.id
            and _is_same_device(other.device, run.device)
            and (other.is_active or _is_ending(other))
            and (other.state != "queued" or (other.queued, other.id) < mine)
        ]

    def read_events(self, run_id: str, offset: int = 0) -> EventPage:
        """Events from `offset` on, and the offset of the next read."""
        return read_events(self.get_folder(self.get(run_id).id), offset)

    def get_progress(self, run_id: str) -> Progress | None:
        """The newest progress; an estimate of the time left from before a resume is dropped."""
        run = self.get(run_id)
        moment = find_latest_progress(self.get_folder(run.id))
        if moment is None or not isinstance(moment.event, Progress):
            return None
        if run.begun is not None and moment.at >= run.begun:
            return moment.event
        return moment.event.model_copy(update={"eta_s": None})

    def log(self, run_id: str, last_bytes: int = 65536) -> str:
        """The end of the log; empty for a run from the command line, whose output went to the terminal."""
        return read_log(self.get_folder(self.get(run_id).id), last_bytes)

    def set_notes(self, run_id: str, text: str) -> Run:
        """Replace the notes of a run."""
        return self.update(run_id, lambda run: run.replace(notes=text))

    def create_id(self) -> str:
        """An id that sorts by time and is easy to read aloud."""
        return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"

    def create(self, run_id: str, order: RunRequest) -> Run:
        """Create folder and record of a new run; nothing is left behind on a disk error."""
        now = time.time()
        run = Run(**dict(order), id=run_id, state="queued", created=now, queued=now)
        with translate_os_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = self.get_folder(run_id)
            folder.mkdir()
            try:
                write_record(folder, run)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return run

    def update(self, run_id: str, how: Callable[[Run], Run | None]) -> Run:
        """Read, change and write one record under the lock; `how` may return None to leave it unchanged."""
        self.get(run_id)  # fails early if the run does not exist
        with self.lock():
            run = self.get(run_id)
            if run.state == "damaged":
                raise DamagedError(run.message, run.hint)
            changed = how(run)
            if changed is not None and changed != run:
                with translate_os_errors(self.get_folder(run_id)):
                    write_record(self.get_folder(run_id), changed)
        return self.get(run_id)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock: no other process changes a record meanwhile."""
        with translate_os_errors(self.folder):
            lock = FileLock(self.home / "runs.lock")
            try:
                lock.acquire(timeout=LOCK_S, poll_interval=0.01)
            except Timeout:
                raise DiskError(f"{lock.lock_file} is held by another process.", "End it and try again.") from None
        try:
            yield
        finally:
            lock.release()

    def start_if_next(self, run_id: str) -> bool:
        """Start a queued run unless another is ahead of it. Called often, so the lock is taken only if it may start."""

        def set_running(run: Run) -> Run | None:
            if run.state != "queued" or self.find_ahead(run):
                return None
            return run.replace(state="running", begun=time.time())

        return set_running(self.get(run_id)) is not None and self.update(run_id, set_running).state == "running"

    def delete(self, run_id: str, artifact: Path | str | None = None) -> None:
        """Delete a run's folder; its artifact elsewhere too, if `artifact` is exactly the path in the record."""
        with self.lock():
            run = self.get(run_id)
            if run.is_active:
                raise RequestError(f"Run {run_id} is {run.state}.", "Stop it first.")
            if artifact is not None:
                self._delete_artifact(run, expand(artifact).absolute())
            hidden = self.folder / f".deleted-{run_id}"  # a kill meanwhile leaves no partial run in the list
            with translate_os_errors(self.folder):
                self.get_folder(run_id).replace(hidden)
                shutil.rmtree(hidden)

    def _delete_artifact(self, run: Run, artifact: Path) -> None:
        if artifact != run.artifact:
            raise RequestError(
                f"The artifact of run {run.id} is at {run.artifact}, not at {artifact}.", "Give that path."
            )
        if users := [r.id for r in self.list_all() if r.is_active and r.artifact == artifact]:
            raise RequestError(f"Run {users[0]} is writing {artifact}.", "Stop it first.")
        part = get_sibling(artifact, ".part")
        places = [path for path, mark in ((artifact, MANIFEST), (part, RECIPE)) if (path / mark).is_file()]
        if not places and artifact.exists():
            raise RequestError(f"{artifact} is not an artifact of LS-PRISM.", "If you want to, delete it yourself.")
        for place in places:
            with translate_os_errors(place):
                shutil.rmtree(place.resolve())
                if place.is_symlink():
                    place.unlink()

    def _read_run(self, run_id: str) -> Run | None:
        """The current state of a run, or None if its folder is gone."""
        run = self._read(run_id)
        if run is not None and run.is_active and not _is_worked_on(run):
            run = self._read(run_id)  # the process may have recorded its end meanwhile
            if run is not None and run.is_active:
                run = _resolve_lost(run)
        if run is None:
            self._shown.pop(run_id, None)
        elif (shown := self._shown.get(run_id)) is not run and shown != run:
            self._shown[run_id] = run
        return self._shown.get(run_id)

    def _read(self, run_id: str) -> Run | None:
        """The record, parsed again only if the file has changed."""
        folder = self.folder / run_id
        try:
            state = (folder / RECORD).stat()
            mark: tuple[int, ...] = (state.st_ino, state.st_mtime_ns, state.st_size)
        except OSError:
            mark = ()
        if mark and (seen := self._seen.get(run_id)) and seen[0] == mark:
            return seen[1]
        try:
            run = read_record(folder)
        except FileNotFoundError:
            self._seen.pop(run_id, None)
            return None
        except DamagedError as error:
            run = _make_damaged(folder, error)
        self._seen[run_id] = (mark, run)
        return run


def _is_worked_on(run: Run) -> bool:
    """Whether a process works on it, or is about to."""
    if run.processes:
        return is_any_alive(run.processes)
    return time.time() - run.queued < STARTING_S


def _is_ending(run: Run) -> bool:
    """Whether a run that has just recorded its end still holds its memory."""
    return run.ended is not None and time.time() - run.ended < ENDING_S and is_any_alive(run.processes)


def _resolve_lost(run: Run) -> Run:
    """A run whose processes disappeared without recording an end."""
    if run.state == "stopping":
        return run.replace(state="stopped")
    reason = "The process ended unexpectedly: it was killed, crashed, or the machine was restarted."
    return run.replace(state="lost", message=reason, hint="Resume it. The log may contain details.")


def _make_damaged(folder: Path, error: DamagedError) -> Run:
    try:
        created = folder.stat().st_mtime
    except OSError:
        created = 0.0
    return Run(
        id=folder.name,
        verb="",
        state="damaged",
        created=created,
        queued=created,
        message=error.message,
        hint=error.hint,
    )


def _is_same_device(one: str, other: str) -> bool:
    """'auto' can be any device; 'cuda' is the first GPU."""
    names = {"cuda:0" if name == "cuda" else name for name in (one, other)}
    return "" not in names and (len(names) == 1 or "auto" in names)
