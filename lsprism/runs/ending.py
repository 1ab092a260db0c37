"""Stops a run: SIGTERM first, then SIGKILL."""

import time

from lsprism.errors import DiskError, RequestError
from lsprism.runs.process import POLL_S, any_alive, ask_to_end, end_for_certain
from lsprism.runs.record import Run
from lsprism.runs.runs import Runs

PATIENCE_S = 8.0  # longer than a keeper waits for its command
CERTAIN_S = 5.0  # for killed processes to disappear


def ask_to_stop(runs: Runs, run_id: str) -> Run:
    """Ask a run to stop and return immediately; its keeper ends it. RequestError if the run is not active."""

    def ask(run: Run) -> Run:
        if not run.live:
            raise RequestError(f"Run {run_id} is {run.state}.", "Only a queued or running run can be stopped.")
        return run.but(state="stopping")

    try:
        run = runs.change(run_id, ask)
    except DiskError:  # the processes can be asked all the same
        run = runs.get(run_id)
    if run.live and run.processes:
        ask_to_end(run.processes[0])  # the keeper, or a command without one
    return run


def stop(runs: Runs, run_id: str, patience_s: float = PATIENCE_S) -> Run:
    """Stop a run and wait until it has ended; kill it and its children after `patience_s`."""
    ask_to_stop(runs, run_id)
    if not _ended(runs, run_id, patience_s):
        for process in runs.get(run_id).processes:
            end_for_certain(process)
        _ended(runs, run_id, CERTAIN_S)
    return runs.change(run_id, lambda run: run.but(ended=run.ended or time.time()))


def _ended(runs: Runs, run_id: str, within_s: float) -> bool:
    """Whether its end is recorded and all its processes are gone."""
    deadline = time.monotonic() + within_s
    while (run := runs.get(run_id)).live or any_alive(run.processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
