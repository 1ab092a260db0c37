"""Processes: who lives, who is asked to end, who is ended for certain, who gives way to others."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from lsprism.runs.record import Process

CLOCK_S = 5.0  # by which the clock may be set right while a process lives; no number comes back that soon
POLL_S = 0.05
NICE = 10
FIRST_TO_GO = "500"  # of 1000: where memory runs out, the system ends a run before whoever started it

WINDOWS = sys.platform == "win32"


def identify(pid: int) -> Process:
    """psutil.Error where it has ended already."""
    return Process(pid=pid, created=psutil.Process(pid).create_time())


def find(process: Process) -> psutil.Process | None:
    """The living process, or None where it has ended, though its number may be in use again."""
    try:
        found = psutil.Process(process.pid)
        if abs(found.create_time() - process.created) > CLOCK_S or found.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return found


def any_alive(processes: Iterable[Process]) -> bool:
    return any(find(process) for process in processes)


def gone(processes: Iterable[Process], within_s: float) -> bool:
    """Wait until none of them lives; whether it came to that."""
    deadline = time.monotonic() + within_s
    while any_alive(processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def ask_to_end(process: Process) -> None:
    """SIGTERM, which our command line hears; Windows knows no polite way, and what we write is whole at any moment."""
    if found := find(process):
        with suppress(psutil.Error):
            found.terminate()


def end_for_certain(process: Process) -> None:
    """Kill a process, its children and theirs; and, where it leads a group of its own, all that belong to that."""
    if not (found := find(process)):
        return
    with suppress(psutil.Error, OSError):
        leads = not WINDOWS and os.getpgid(found.pid) == found.pid != os.getpgrp()
        _kill([found, *found.children(recursive=True)])
        if leads:
            end_group(found.pid)


def end_group(leader: int) -> None:
    """Kill all others in a process group: those too whose parent has ended."""
    _kill([other for other in psutil.process_iter() if other.pid != leader and _group(other) == leader])


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None  # it has ended


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def give_way() -> None:
    """This process, and those it will start, run after all that have work of their own."""
    me = psutil.Process()
    with suppress(psutil.Error):
        lower: int | None = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)  # on Windows only
        me.nice(max(NICE, me.nice()) if lower is None else lower)


def spare_others(pid: int) -> None:
    """Where memory runs out, let the system end this process first (Linux)."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(FIRST_TO_GO)
