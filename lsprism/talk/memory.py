"""Memory use of the worker, and releasing unused memory."""

import ctypes
import gc
import sys

import psutil
import torch

from lsprism.evaluation.sides import free_bytes
from lsprism.talk.words import Memory


def memory_on(device: str) -> Memory:
    """Memory use on `device`; "" (no models loaded): of the host."""
    if device.startswith("cuda"):
        return Memory(taken=torch.cuda.memory_reserved(torch.device(device)), free=free_bytes(device))
    return Memory(taken=psutil.Process().memory_info().rss, free=free_bytes("cpu"))


def give_back() -> None:
    """Return freed memory to the system, which the allocators of Python, C and CUDA would otherwise cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
        if trim is not None:
            trim(0)
