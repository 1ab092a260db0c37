"""Chat with two models side by side, in a separate worker process.

    words.py         commands to the worker, and its events
    portrait.py      summary of a loaded model, computed from its modules
    memory.py        memory use of the worker, and releasing memory
    engine.py        loads and unloads the models and interleaves their answers, token by token
    outgoing.py      batches tokens into events
    worker.py        the process that owns the models
    talk.py          the client `Talk`, for a dashboard or a script
    conversation.py  turns, messages of each side, and the first difference between two answers
    votes.py         votes for the better answer

A separate process makes it possible to cancel a load, to release memory completely, and to keep the dashboard alive
when memory runs out. Only the worker imports the engine, and with it torch.
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
