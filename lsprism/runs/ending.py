"""Stops a run: first politely, then for certain."""

import time

from lsprism.errors import DiskError, RequestError
from lsprism.runs.process import POLL_S, any_alive, ask_to_end, end_for_certain
from lsprism.runs.record import Run
from lsprism.runs.runs import Runs

PATIENCE_S = 8.0  # more than a keeper has with its command
CERTAIN_S = 5.0  # for the system to bury what was killed


def ask_to_stop(runs: Runs, run_id: str) -> Run:
    """Tell a run to end, and return at once; its keeper sees to it. RequestError where there is nothing to stop."""

    def ask(run: Run) -> Run:
        if not run.live:
            raise RequestError(f"Run {run_id} is {run.state}.", "There is nothing to stop.")
        return run.but(state="stopping")

    try:
        run = runs.change(run_id, ask)
    except DiskError:  # it can be told all the same
        run = runs.get(run_id)
    if run.live and run.processes:
        ask_to_end(run.processes[0])  # a keeper, or a command without one
    return run


def stop(runs: Runs, run_id: str, patience_s: float = PATIENCE_S) -> Run:
    """Stop a run, wait until it has ended, and end it and its children for certain after `patience_s`."""
    ask_to_stop(runs, run_id)
    if not _ended(runs, run_id, patience_s):
        for process in runs.get(run_id).processes:
            end_for_certain(process)
        _ended(runs, run_id, CERTAIN_S)
    return runs.change(run_id, lambda run: run.but(ended=run.ended or time.time()))


def _ended(runs: Runs, run_id: str, within_s: float) -> bool:
    """Whether it has written down its end and all its processes are gone."""
    deadline = time.monotonic() + within_s
    while (run := runs.get(run_id)).live or any_alive(run.processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
