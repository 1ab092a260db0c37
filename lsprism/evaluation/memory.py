"""Peak memory of a model at work, read in a process of its own: what was in memory before would hide it."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import torch

from lsprism.artifact.finish import peak_memory
from lsprism.errors import WorkError
from lsprism.evaluation.profile import answer
from lsprism.figures import SpeedFigure
from lsprism.layers.compute_dtype import requested_compute_dtype, using_compute_dtype
from lsprism.models.load import load
from lsprism.reports import ModelSource, Record

# A process of its own is a program of its own: like any other it registers the format of artifacts before it loads one.
IMPORTS = "import lsprism.hf, sys; from lsprism.evaluation import memory; "
IDLE = IMPORTS + "print(memory.peak_memory())"
AT_WORK = IMPORTS + "print(memory.peak_of(memory.Work.model_validate_json(sys.argv[1])))"


class Work(Record):
    """One model that answers one prompt."""

    source: ModelSource
    device: str
    dtype: str
    prompt_tokens: int
    new_tokens: int
    compute_dtype: str = "auto"


def with_peak_memory(figure: SpeedFigure, source: ModelSource) -> SpeedFigure:
    """The figure with the peak memory of a process that loads this model and answers once as the figure says.

    On a CPU that is VmHWM less that of a process which only imports, on CUDA what PyTorch took on the device; None
    where the system does not tell. WorkError if the process fails.
    """
    work = Work(
        source=source,
        device=figure.device,
        dtype=figure.dtype,
        prompt_tokens=figure.prompt_tokens,
        new_tokens=figure.new_tokens,
        compute_dtype=requested_compute_dtype(),
    )
    peak = _child(AT_WORK, work.model_dump_json())
    if peak and not figure.device.startswith("cuda"):
        peak -= _idle()
    return figure.model_copy(update={"peak_memory_bytes": peak or None})


def peak_of(work: Work) -> int:
    """Do the work; the highest memory of this process so far, bytes: on CUDA the device's, else VmHWM."""
    loaded = load(work.source, work.device, work.dtype)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    with using_compute_dtype(work.compute_dtype):
        answer(loaded, (torch.arange(work.prompt_tokens) % vocabulary)[None], work.new_tokens)
    return torch.cuda.max_memory_allocated(loaded.device) if loaded.device.type == "cuda" else peak_memory()


@functools.cache
def _idle() -> int:
    return _child(IDLE)


def _child(code: str, *arguments: str) -> int:
    """What the code prints last, in a fresh interpreter that finds this package wherever it lies."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        killed = done.returncode == -9
        raise WorkError(
            f"The process that reads peak memory failed: {'killed, most likely for memory' if killed else reason}.",
            "Measure without memory, or on a machine with more of it.",
        )
    return int(done.stdout.split()[-1])
