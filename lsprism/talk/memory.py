"""The worker's memory: how much it takes, and giving back what is no longer used."""

import ctypes
import gc
import sys

import psutil
import torch

from lsprism.evaluation.sides import free_bytes
from lsprism.talk.words import Memory


def memory_on(device: str) -> Memory:
    """On the device where models are; "": there are none, so the machine's own."""
    if device.startswith("cuda"):
        return Memory(taken=torch.cuda.memory_reserved(torch.device(device)), free=free_bytes(device))
    return Memory(taken=psutil.Process().memory_info().rss, free=free_bytes("cpu"))


def give_back() -> None:
    """Let the system have what was freed: the allocators of Python, C and CUDA would keep it for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
