"""Processes: identify, terminate, kill, and lower their priority."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from lsprism.runs.record import ProcessId

CLOCK_S = 5.0  # tolerated clock adjustment while a process lives; no pid is reused that soon
POLL_S = 0.05
NICE = 10
FIRST_TO_GO = "500"  # of 1000: out of memory, the system kills a run before the process that started it

WINDOWS = sys.platform == "win32"


def get_process(pid: int) -> ProcessId:
    """psutil.Error if it has already ended."""
    return ProcessId(pid=pid, created=psutil.Process(pid).create_time())


def find(process: ProcessId) -> psutil.Process | None:
    """The process, or None if it has ended, even where its pid is in use again."""
    try:
        found = psutil.Process(process.pid)
        if abs(found.create_time() - process.created) > CLOCK_S or found.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return found


def is_any_alive(processes: Iterable[ProcessId]) -> bool:
    return any(find(process) for process in processes)


def wait_gone(processes: Iterable[ProcessId], within_s: float) -> bool:
    """Wait until all have ended; False after `within_s`."""
    deadline = time.monotonic() + within_s
    while is_any_alive(processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def send_terminate(process: ProcessId) -> None:
    """Send SIGTERM, which the command line handles. Windows ends the process at once; files on disk stay valid."""
    if found := find(process):
        with suppress(psutil.Error):
            found.terminate()


def kill_tree(process: ProcessId) -> None:
    """Kill a process and its descendants, and its process group if it leads one."""
    if not (found := find(process)):
        return
    with suppress(psutil.Error, OSError):
        leads = not WINDOWS and os.getpgid(found.pid) == found.pid != os.getpgrp()
        _kill([found, *found.children(recursive=True)])
        if leads:
            kill_group(found.pid)


def kill_group(leader: int) -> None:
    """Kill all other processes in a group, also those whose parent has ended."""
    _kill([other for other in psutil.process_iter() if other.pid != leader and _get_group(other) == leader])


def _get_group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None  # it has already ended


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def set_low_priority() -> None:
    """Lower the priority of this process and of those it starts."""
    me = psutil.Process()
    with suppress(psutil.Error):
        lower: int | None = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)  # on Windows only
        me.nice(max(NICE, me.nice()) if lower is None else lower)


def set_oom_priority(pid: int) -> None:
    """Out of memory, let the system kill this process first (Linux)."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(FIRST_TO_GO)
