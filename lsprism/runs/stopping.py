"""Stops a run: SIGTERM first, then SIGKILL."""

import time

from lsprism.errors import DiskError, RequestError
from lsprism.runs.process import POLL_S, is_any_alive, kill_tree, send_terminate
from lsprism.runs.record import Run
from lsprism.runs.store import RunStore

PATIENCE_S = 8.0  # longer than a keeper waits for its command
CERTAIN_S = 5.0  # for killed processes to disappear


def request_stop(runs: RunStore, run_id: str) -> Run:
    """Ask a run to stop and return immediately; its keeper ends it. RequestError if the run is not active."""

    def set_stopping(run: Run) -> Run:
        if not run.is_active:
            raise RequestError(f"Run {run_id} is {run.state}.", "Only a queued or running run can be stopped.")
        return run.replace(state="stopping")

    try:
        run = runs.update(run_id, set_stopping)
    except DiskError:  # the processes can be asked all the same
        run = runs.get(run_id)
    if run.is_active and run.processes:
        send_terminate(run.processes[0])  # the keeper, or a command without one
    return run


def stop(runs: RunStore, run_id: str, patience_s: float = PATIENCE_S) -> Run:
    """Stop a run and wait until it has ended; kill it and its children after `patience_s`."""
    request_stop(runs, run_id)
    if not _has_ended(runs, run_id, patience_s):
        for process in runs.get(run_id).processes:
            kill_tree(process)
        _has_ended(runs, run_id, CERTAIN_S)
    return runs.update(run_id, lambda run: run.replace(ended=run.ended or time.time()))


def _has_ended(runs: RunStore, run_id: str, within_s: float) -> bool:
    """Whether its end is recorded and all its processes are gone."""
    deadline = time.monotonic() + within_s
    while (run := runs.get(run_id)).is_active or is_any_alive(run.processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
