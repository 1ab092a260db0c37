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
from lsprism.runs.journal import Journal, plain_values
from lsprism.runs.process import identify
from lsprism.runs.record import Order, Run
from lsprism.runs.runs import Runs

RUN = "LSPRISM_RUN"  # set by a keeper for its command: the folder of the run
STOPPED = 130


class Recording:
    """A context manager around one command. If it cannot write, it warns once and the command continues unrecorded."""

    def __init__(self, order: Order, warn: Callable[[str], None]) -> None:
        self.order, self.warn = order, warn
        self.runs: Runs | None = None
        self.run_id = ""
        self.journal: Journal | None = None
        self.own = False  # a new run, neither started by a keeper nor resumed
        self.report: Any = None

    def __enter__(self) -> "Recording":
        try:
            self._open()
        except (LSPrismError, OSError, psutil.Error) as error:
            self.runs = None
            self._give_up(error)
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
            self._give_up(error)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if self.journal:
            self.journal.close()
        if self.runs is None:
            return
        try:
            if self.own and isinstance(error, RequestError):  # already shown to the user, and nothing was started
                self.runs.change(self.run_id, lambda run: _end(run, error, self.report))
                self.runs.delete(self.run_id)
            else:
                self.runs.change(self.run_id, lambda run: _end(run, error, self.report))
        except LSPrismError as refusal:
            self._give_up(refusal)

    def _open(self) -> None:
        me = identify(os.getpid())
        if folder := os.environ.pop(RUN, ""):  # popped: it does not apply to commands that this one starts
            self.runs, self.run_id = Runs(Path(folder).parents[1]), Path(folder).name
            self.runs.change(self.run_id, lambda run: run.but(processes=[*run.processes, me]))
        else:
            self.runs = Runs()
            before = self._before(self.runs)
            self.own = before is None
            run = before or self.runs.create(self.runs.new_id(), self.order)
            self.run_id = run.id
            self.runs.change(run.id, lambda run: self._begin(run).but(processes=[me]))
        self.journal = Journal(self.runs.path(self.run_id))

    def _before(self, runs: Runs) -> Run | None:
        """The earlier run that this command resumes."""
        if not self.order.settings.get("resume"):
            return None
        same = (run for run in runs.all() if (run.verb, run.artifact) == (self.order.verb, self.order.artifact))
        newest = next(same, None)
        return newest if newest is not None and newest.goes_on else None

    def _begin(self, run: Run) -> Run:
        return run.but(
            **dict(self.order), state="running", begun=time.time(), ended=None, exit_code=None, message="", hint=""
        )

    def _give_up(self, error: Exception) -> None:
        if self.journal:
            self.journal.close()
            self.journal = None
        self.warn(f"This run is not recorded: {error}")


def record_failure(error: LSPrismError) -> None:
    """Record why a command that a keeper started failed before its `Recording` opened; otherwise do nothing."""
    if folder := os.environ.pop(RUN, ""):
        with suppress(LSPrismError, OSError):  # then the keeper records the exit code
            Runs(Path(folder).parents[1]).change(Path(folder).name, lambda run: _end(run, error))


def _end(run: Run, error: BaseException | None, report: Any = None) -> Run:
    ended = run.but(ended=time.time())
    match error:
        case None:
            figures = plain_values(report) if report is not None else {}
            return ended.but(state="done", exit_code=0, figures=figures)
        case KeyboardInterrupt():
            return ended.but(state="stopped", exit_code=STOPPED)
        case LSPrismError():
            return ended.but(state="failed", exit_code=error.exit_code, message=error.message, hint=error.hint)
    message = f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode("utf-8")
    return ended.but(state="failed", exit_code=1, message=message)
