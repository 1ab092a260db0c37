"""Background runs: each is a child process of the command line, with a folder of its own.

    <state folder>/runs/<id>/record.json    the command, its processes, how it ended (replaced atomically)
                             events.jsonl   the events, one lsprism.events model per line (append-only)
                             log            output of the command
                             artifact/      the result, unless another folder was named
                             reserve        a few bytes, deleted where a full disk leaves no room to record the end

All state of a run is in its folder; nothing is kept in memory that a restart could lose. A *keeper*
(lsprism.runs.keeper) runs between the starter and the command: it waits in the queue, starts the command and records
how it ends.
"""

from lsprism.runs.event_log import EventPage, LoggedEvent
from lsprism.runs.launch import resume, start
from lsprism.runs.record import ACTIVE, ENDED, RESUMABLE, Run, RunRequest, State
from lsprism.runs.recorder import RunRecorder
from lsprism.runs.state_folder import get_state_folder
from lsprism.runs.stopping import request_stop, stop
from lsprism.runs.store import RunStore

__all__ = [
    "ENDED",
    "RESUMABLE",
    "ACTIVE",
    "LoggedEvent",
    "RunRequest",
    "RunRecorder",
    "Run",
    "RunStore",
    "State",
    "EventPage",
    "request_stop",
    "resume",
    "start",
    "get_state_folder",
    "stop",
]
