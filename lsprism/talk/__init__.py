"""A conversation with two models side by side, told what each of them costs.

    words.py         what is asked of the worker, and what it answers
    portrait.py      a side's header, read from the module in memory
    memory.py        how much the worker takes, and giving it back
    engine.py        two seats: loads, unloads, and answers of both in turn, token by token
    outgoing.py      tokens on their way out
    worker.py        the process that owns the models
    talk.py          this end of it: `Talk`, which a dashboard or a script holds
    conversation.py  turns, what both sides are told, where their answers part
    votes.py         which answer was the better one

The models live in one process of its own: a load can be broken off, its memory comes back for certain, and where memory
runs out the dashboard lives. Nothing here needs torch but the engine and what it
uses, which the worker alone imports.
"""

from lsprism.talk.conversation import Answer, Conversation, Turn, parting, speed_up
from lsprism.talk.talk import Progress, Seating, Talk, Work
from lsprism.talk.words import SLOTS, Memory, Portrait, Seat, Slot, Timing, Wanted

__all__ = [
    "SLOTS",
    "Answer",
    "Conversation",
    "Memory",
    "Portrait",
    "Progress",
    "Seat",
    "Seating",
    "Slot",
    "Talk",
    "Timing",
    "Turn",
    "Wanted",
    "Work",
    "parting",
    "speed_up",
]
