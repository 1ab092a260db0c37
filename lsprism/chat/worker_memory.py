"""Memory use of the worker, and releasing unused memory."""

import ctypes
import gc
import sys

import psutil
import torch

from lsprism.chat.messages import WorkerMemory
from lsprism.evaluation.model_pair import get_free_bytes


def read_memory(device: str) -> WorkerMemory:
    """Memory use on `device`; "" (no models loaded): of the host."""
    if device.startswith("cuda"):
        return WorkerMemory(taken=torch.cuda.memory_reserved(torch.device(device)), free=get_free_bytes(device))
    return WorkerMemory(taken=psutil.Process().memory_info().rss, free=get_free_bytes("cpu"))


def release_memory() -> None:
    """Return freed memory to the system, which the allocators of Python, C and CUDA would otherwise cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
        if trim is not None:
            trim(0)
