"""Work that outlives a click: each run is a child process of our own command line, with a folder of its own.

    <home>/runs/<id>/record.json    what was asked, which processes carry it out, how it ended (replaced whole)
                     events.jsonl   what happened meanwhile, one lsprism.events model a line (only ever appended)
                     log            what the command said
                     artifact/      the result, unless another place was named
                     reserve        a few bytes, given up where a full disk leaves no room to note the end

Whoever wants to know how a run is reads its folder; nothing is kept in memory that a restart could lose. A *keeper*
(lsprism.runs.keeper) stands between the starter and the command: it waits for the turn, and sees how the command ends.
"""

from lsprism.runs.ending import ask_to_stop, stop
from lsprism.runs.home import state_folder
from lsprism.runs.journal import Moment, Tail
from lsprism.runs.launch import resume, start
from lsprism.runs.record import ENDED, GOES_ON, LIVE, Order, Run, State
from lsprism.runs.recording import Recording
from lsprism.runs.runs import Runs

__all__ = [
    "ENDED",
    "GOES_ON",
    "LIVE",
    "Moment",
    "Order",
    "Recording",
    "Run",
    "Runs",
    "State",
    "Tail",
    "ask_to_stop",
    "resume",
    "start",
    "state_folder",
    "stop",
]
