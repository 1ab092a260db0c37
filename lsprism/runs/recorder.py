"""How a command records its work: in the run that a keeper started it for, or in a new run of its own."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from lsprism.errors import LSPrismError, RequestError
from lsprism.events import Finished
from lsprism.runs.event_log import EventLog, extract_values
from lsprism.runs.process import get_process
from lsprism.runs.record import Run, RunRequest
from lsprism.runs.store import RunStore

RUN = "LSPRISM_RUN"  # set by a keeper for its command: the folder of the run
STOPPED = 130


class RunRecorder:
    """A context manager around one command. If it cannot write, it warns once and the command continues unrecorded."""

    def __init__(self, order: RunRequest, warn: Callable[[str], None]) -> None:
        self.order, self.warn = order, warn
        self.runs: RunStore | None = None
        self.run_id = ""
        self.journal: EventLog | None = None
        self.own = False  # a new run, neither started by a keeper nor resumed
        self.report: Any = None

    def __enter__(self) -> "RunRecorder":
        try:
            self._open()
        except (LSPrismError, OSError, psutil.Error) as error:
            self.runs = None
            self._disable(error)
        return self

    def add(self, event: Any) -> None:
        """Append one event to the log of the run."""
        if isinstance(event, Finished):
            self.report = event.report
        if self.journal is None:
            return
        try:
            self.journal.add(event)
        except (OSError, ValueError) as error:  # ValueError: text that is not valid Unicode
            self._disable(error)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if self.journal:
            self.journal.close()
        if self.runs is None:
            return
        try:
            if self.own and isinstance(error, RequestError):  # already shown to the user, and nothing was started
                self.runs.update(self.run_id, lambda run: _make_ended(run, error, self.report))
                self.runs.delete(self.run_id)
            else:
                self.runs.update(self.run_id, lambda run: _make_ended(run, error, self.report))
        except LSPrismError as refusal:
            self._disable(refusal)

    def _open(self) -> None:
        me = get_process(os.getpid())
        if folder := os.environ.pop(RUN, ""):  # popped: it does not apply to commands that this one starts
            self.runs, self.run_id = RunStore(Path(folder).parents[1]), Path(folder).name
            self.runs.update(self.run_id, lambda run: run.replace(processes=[*run.processes, me]))
        else:
            self.runs = RunStore()
            before = self._find_resumed(self.runs)
            self.own = before is None
            run = before or self.runs.create(self.runs.create_id(), self.order)
            self.run_id = run.id
            self.runs.update(run.id, lambda run: self._start(run).replace(processes=[me]))
        self.journal = EventLog(self.runs.get_folder(self.run_id))

    def _find_resumed(self, runs: RunStore) -> Run | None:
        """The earlier run that this command resumes."""
        if not self.order.settings.get("resume"):
            return None
        same = (run for run in runs.list_all() if (run.verb, run.artifact) == (self.order.verb, self.order.artifact))
        newest = next(same, None)
        return newest if newest is not None and newest.is_resumable else None

    def _start(self, run: Run) -> Run:
        return run.replace(
            **dict(self.order), state="running", begun=time.time(), ended=None, exit_code=None, message="", hint=""
        )

    def _disable(self, error: Exception) -> None:
        if self.journal:
            self.journal.close()
            self.journal = None
        self.warn(f"This run is not recorded: {error}")


def store_failure(error: LSPrismError) -> None:
    """Record why a command that a keeper started failed before its `RunRecorder` opened; otherwise do nothing."""
    if folder := os.environ.pop(RUN, ""):
        with suppress(LSPrismError, OSError):  # then the keeper records the exit code
            RunStore(Path(folder).parents[1]).update(Path(folder).name, lambda run: _make_ended(run, error))


def _make_ended(run: Run, error: BaseException | None, report: Any = None) -> Run:
    ended = run.replace(ended=time.time())
    match error:
        case None:
            figures = extract_values(report) if report is not None else {}
            return ended.replace(state="done", exit_code=0, figures=figures)
        case KeyboardInterrupt():
            return ended.replace(state="stopped", exit_code=STOPPED)
        case LSPrismError():
            return ended.replace(state="failed", exit_code=error.exit_code, message=error.message, hint=error.hint)
    message = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode("utf-8")
    return ended.replace(state="failed", exit_code=1, message=message)
