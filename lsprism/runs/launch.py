"""Starts or resumes a run: writes its record and starts a keeper in a process group of its own."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from pydantic import BaseModel

import lsprism
from lsprism.errors import LSPrismError, RequestError, SpecError, WorkError
from lsprism.runs.argv import make_request
from lsprism.runs.event_log import LOG
from lsprism.runs.process import get_process, wait_gone
from lsprism.runs.record import Run, RunRequest
from lsprism.runs.store import ENDING_S, RunStore
from lsprism.specs import CompressSpec, PlanSpec

ARTIFACT, REPORT = "artifact", "report"  # name of the result in the folder of the run
# -P: a file in the working folder that is named like a module is not imported.
PYTHON = (sys.executable, "-P")
PROGRAM = (*PYTHON, "-m", "lsprism")


def start(runs: RunStore, verb: str, spec: BaseModel, *, token: str = "", program: tuple[str, ...] = PROGRAM) -> Run:
    """Start a command as a child process; it waits until its device is free.

    Without a `save_path` (a PlanSpec to compress, an evaluation) the result is written to the folder of the run.
    `token`, for the Hub, is passed in the environment of the child and stored nowhere. DiskError: the state folder
    cannot be written.
    """
    run_id = runs.create_id()
    if verb == "compress" and type(spec) is PlanSpec:
        spec = CompressSpec(**dict(spec), save_path=runs.get_folder(run_id) / ARTIFACT)
    elif getattr(spec, "save_path", "") is None:
        spec = spec.model_copy(update={"save_path": runs.get_folder(run_id) / REPORT})
    order = make_request(verb, spec)
    _check_token(order, token)
    return _launch(runs, runs.create(run_id, order), token.strip(), program)


def resume(runs: RunStore, run_id: str, *, token: str = "", program: tuple[str, ...] = PROGRAM) -> Run:
    """Resume a stopped, failed or lost run in its own folder; a command that cannot resume starts over."""

    def set_queued(run: Run) -> Run:
        if not run.is_resumable:
            raise RequestError(f"Run {run_id} is {run.state}.", "Only a stopped, failed or lost run can be resumed.")
        words = list(run.words)
        if run.settings.get("resume") is False:  # None: the command has no such option
            words.append("--resume")
        return run.replace(
            **dict.fromkeys(("begun", "ended", "exit_code")),
            **dict.fromkeys(("message", "hint"), ""),
            words=words,
            settings={**run.settings, "resume": True} if "resume" in run.settings else run.settings,
            state="queued",
            queued=time.time(),
            processes=[],
            figures={},
            origin="dashboard",
        )

    before = runs.get(run_id)
    _check_token(before, token)
    if before.is_resumable and not wait_gone(before.processes, ENDING_S):
        raise RequestError(f"Run {run_id} has not ended yet.", "Wait a moment, or stop it first.")
    return _launch(runs, runs.update(run_id, set_queued), token.strip(), program)


def _launch(runs: RunStore, run: Run, token: str, program: tuple[str, ...]) -> Run:
    folder = runs.get_folder(run.id)
    command = [*PYTHON, "-m", "lsprism.runs.keeper", str(folder), *program]
    try:
        with (folder / LOG).open("ab") as log:
            keeper = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run.cwd,
                env=_build_environment(token),
                start_new_session=True,  # neither Ctrl-C nor the end of a terminal reaches it
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
    except OSError as error:
        reason = (
            f"The run cannot be started: {error.strerror or error}{f': {error.filename}' if error.filename else ''}."
        )
        runs.update(run.id, lambda run: run.replace(state="failed", message=reason, ended=time.time()))
        raise WorkError(reason, "It is listed as failed; resume it once that is fixed.") from error
    return _register_supervisor(runs, run.id, keeper)


def _register_supervisor(runs: RunStore, run_id: str, keeper: "subprocess.Popen[bytes]") -> Run:
    """Record the keeper as first process of the run. A thread waits for it, so that it does not stay as a zombie."""
    try:
        process = get_process(keeper.pid)
        return runs.update(run_id, lambda run: run.replace(processes=[process, *run.processes]))
    except psutil.Error:
        return runs.get(run_id)  # it has already ended
    except LSPrismError:
        keeper.kill()  # an unrecorded run could not be stopped
        raise
    finally:
        threading.Thread(target=keeper.wait, daemon=True, name=f"lsprism-run-{run_id}").start()


def _build_environment(token: str) -> dict[str, str]:
    """That of this process, plus the path of this package, so that the child can run in any folder."""
    package = str(Path(lsprism.__file__).resolve().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **own, "PYTHONIOENCODING": "utf-8", **({"HF_TOKEN": token} if token else {})}


def _check_token(order: RunRequest, token: str) -> None:
    if token.strip() and any(token.strip() in word for word in order.words):
        raise SpecError("A setting contains the access token.", "Remove it: settings are written to disk.")
