"""Chat with two models side by side, in a separate worker process.

    messages.py      commands to the worker, and its events
    model_summary.py  summary of a loaded model, computed from its modules
    worker_memory.py  memory use of the worker, and releasing memory
    worker_engine.py  loads and unloads the models and interleaves their answers, token by token
    batching.py      batches tokens into events
    worker.py        the process that owns the models
    client.py        the client `ChatClient`, for a dashboard or a script
    conversation.py  turns, messages of each side, and the first difference between two answers
    votes.py         votes for the better answer

A separate process makes it possible to cancel a load, to release memory completely, and to keep the dashboard alive
when memory runs out. Only the worker imports the engine, and with it torch.
"""

from lsprism.chat.client import ChatClient, ChatProgress, ChatTask, LoadedModels
from lsprism.chat.conversation import ChatAnswer, Conversation, Turn, compute_speed_up, find_divergence
from lsprism.chat.messages import SLOTS, AnswerTiming, LoadedSlot, ModelRequest, ModelSummary, Slot, WorkerMemory

__all__ = [
    "SLOTS",
    "ChatAnswer",
    "Conversation",
    "WorkerMemory",
    "ModelSummary",
    "ChatProgress",
    "LoadedSlot",
    "LoadedModels",
    "Slot",
    "ChatClient",
    "AnswerTiming",
    "Turn",
    "ModelRequest",
    "ChatTask",
    "find_divergence",
    "compute_speed_up",
]
