"""Checks the kernels of gpu.py on a GPU before they are used there: once, in a process of its own, which may fail.

The process compares products with those of dense matrices, and times the kernels against Triton's. What it finds is
cached for this GPU, this version of PyTorch and these sources.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lsprism.packed.kernels.autotune import read_cached, write_cached
from lsprism.paths import cache_folder

TIMEOUT_S = 300
LARGEST_ERROR = 0.01  # of the largest output: a few times what rounding to bfloat16 makes
FOLDER = Path(__file__).parent
_SOURCES = (
    "streams.py",
    "launch.py",
    "group.py",
    "gpu.py",
    "rounding.cuh",
    "group.cuh",
    "steps.cuh",
    "streams.cu",
    "unpack.cu",
    "rotary.cu",
)

logger = logging.getLogger("lsprism.packed.kernels")


def is_verified(device: torch.device) -> bool:
    """Whether products are right on this GPU, and not slower than by the Triton kernels."""
    path = cache_folder() / "gpu-checks.json"
    known, key = read_cached(path), _describe(device)
    if key not in known:
        logger.info("Checking the kernels for sparse layers on this GPU, once: about half a minute.")
        found = run_check(device)
        if found is None:
            return False  # not cached: the GPU may have been busy
        known[key] = found
        write_cached(path, known)
    return passes(known[key])


def passes(found: dict[str, Any]) -> bool:
    """Whether the result of a check allows the kernels to be used."""
    us = found["us"]
    return found["error"] <= LARGEST_ERROR and us["streams"] <= us.get("triton", float("inf"))


def run_check(device: torch.device) -> dict[str, Any] | None:
    """The largest error relative to the largest output, and microseconds of each way; None if the process failed."""
    package = FOLDER.parents[2]
    paths = filter(None, [str(package), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "lsprism.packed.kernels.measure_gpu", str(device)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
        if not done.returncode:
            return json.loads(done.stdout.splitlines()[-1])
        reason = done.stderr
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    _log_failure(reason)
    return None


def _log_failure(text: str) -> None:
    lines = text.strip().splitlines()
    logger.warning("The check of the kernels on this GPU failed: %s", lines[-1] if lines else "no message")


def _describe(device: torch.device) -> str:
    """What the result depends on, in words."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((FOLDER / name).read_bytes())
    return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, {digest.hexdigest()[:16]}"
