"""python -m lsprism.runs.keeper FOLDER PROGRAM...: supervises one run, in a small process of its own.

It waits until the device is free, starts the command, ends it on request or when the folder of the run is deleted, and
records how it ended. So a crash or an out-of-memory kill is noticed after the dashboard has been closed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lsprism.errors import LSPrismError
from lsprism.runs.process import WINDOWS, get_process, kill_group, kill_tree, set_low_priority, set_oom_priority
from lsprism.runs.record import ENDED, Run
from lsprism.runs.recorder import RUN
from lsprism.runs.store import RunStore

POLL_S = 0.25
PATIENCE_S = 6.0  # for a command to end after SIGTERM
STOPPED = 130


def run_supervised(folder: Path, program: list[str], asked: threading.Event) -> None:
    """Supervise the run in `folder`, whose command is run by `program`; stop it once `asked` is set."""
    runs, run_id = RunStore(folder.parents[1]), folder.name

    def is_stopped() -> bool:
        try:
            return asked.is_set() or runs.get(run_id).state == "stopping"
        except LSPrismError:
            return True  # the folder is gone

    run = _wait_for_turn(runs, run_id, is_stopped)
    if run is None:
        return _store_end(runs, run_id, STOPPED)
    environment = {**os.environ, RUN: str(folder)}
    try:
        worker = subprocess.Popen([*program, run.verb, *run.words], stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:  # too many processes, or out of memory
        return _store_end(runs, run_id, 1, f"{program[0]} cannot be started: {error.strerror}.")
    set_oom_priority(worker.pid)
    code = _wait_for_worker(worker, is_stopped)
    _store_end(runs, run_id, STOPPED if code and asked.is_set() else code)


def _wait_for_turn(runs: RunStore, run_id: str, stopped: Callable[[], bool]) -> Run | None:
    while not stopped():
        with suppress(LSPrismError):  # a full disk may have space again
            if runs.start_if_next(run_id):
                return runs.get(run_id)
        time.sleep(POLL_S)
    return None


def _wait_for_worker(worker: "subprocess.Popen[bytes]", stopped: Callable[[], bool]) -> int:
    """Wait for the exit code; to stop, send SIGTERM, then kill."""
    process = get_process(worker.pid)
    deadline = None
    while True:
        try:
            return worker.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if deadline is None and stopped():
                deadline = time.monotonic() + PATIENCE_S
                worker.terminate()
            elif deadline is not None and time.monotonic() > deadline:
                kill_tree(process)


def _store_end(runs: RunStore, run_id: str, code: int, reason: str = "") -> None:
    """Record what the command has not recorded itself."""

    def update(run: Run) -> Run | None:
        if run.state in ENDED:
            return run.replace(exit_code=code)
        ended = run.replace(exit_code=code, ended=time.time())
        if code == 0:
            return ended.replace(state="done")
        if run.state == "stopping" or code == STOPPED:
            return ended.replace(state="stopped")
        message, hint = (reason, "") if reason else _find_reason(code, runs.log(run_id))
        return ended.replace(state="failed", message=message, hint=hint)

    try:
        runs.update(run_id, update)
    except LSPrismError as error:
        sys.stderr.write(f"{error}\n")  # to the log, the only place left


def _find_reason(code: int, log: str) -> tuple[str, str]:
    """Why a command failed that recorded no reason, and what to do next."""
    if code == -getattr(signal, "SIGKILL", 9):
        reason = "Killed by the system (SIGKILL), most likely because it ran out of memory."
        return reason, "Close other programs or lower --samples and --length, then resume the run."
    if code < 0:
        return (
            f"Crashed ({_get_signal_name(-code)}).",
            "The end of the log may show where. Resume the run to try again.",
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else "."
    return f"Exited with code {code}{last}", "The log may contain details."


def _get_signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kill_rest() -> None:
    """Kill what the command left behind in this process group."""
    if not WINDOWS and os.getpgrp() == os.getpid():
        kill_group(os.getpid())


def main() -> None:
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    set_low_priority()
    run_supervised(Path(sys.argv[1]), sys.argv[2:], asked)
    _kill_rest()


if __name__ == "__main__":
    main()
