"""Peak memory of a model during generation, measured in a separate process."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import torch

from lsprism.artifact.publish import read_peak_memory
from lsprism.errors import WorkError
from lsprism.evaluation.speed import measure_answer
from lsprism.models.load import load
from lsprism.packed.compute_dtype import get_requested_compute_dtype, use_compute_dtype
from lsprism.records.metrics import SpeedResult
from lsprism.records.model_plan import ModelSource, Record

# The child process must register the format of artifacts before it loads one.
IMPORTS = "import lsprism.hf, sys; from lsprism.evaluation import peak_memory; "
IDLE = IMPORTS + "print(peak_memory.read_peak_memory())"
AT_WORK = IMPORTS + "print(peak_memory.measure_peak(peak_memory.MemoryProbe.model_validate_json(sys.argv[1])))"


class MemoryProbe(Record):
    """One model and one prompt."""

    source: ModelSource
    device: str
    dtype: str
    prompt_tokens: int
    new_tokens: int
    compute_dtype: str = "auto"


def add_peak_memory(figure: SpeedResult, source: ModelSource) -> SpeedResult:
    """Add the peak memory of a process that loads the model and generates once with the settings of `figure`.

    On a CPU: VmHWM minus that of a process that only imports the package; on CUDA: the maximum allocated by PyTorch;
    None if the system does not report it. WorkError if the process fails.
    """
    work = MemoryProbe(
        source=source,
        device=figure.device,
        dtype=figure.dtype,
        prompt_tokens=figure.prompt_tokens,
        new_tokens=figure.new_tokens,
        compute_dtype=get_requested_compute_dtype(),
    )
    peak = _run_child(AT_WORK, work.model_dump_json())
    if peak and not figure.device.startswith("cuda"):
        peak -= _measure_idle()
    return figure.model_copy(update={"peak_memory_bytes": peak or None})


def measure_peak(work: MemoryProbe) -> int:
    """Load, generate, and return the peak memory of this process in bytes: on CUDA that of the device, else VmHWM."""
    loaded = load(work.source, work.device, work.dtype)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    with use_compute_dtype(work.compute_dtype):
        measure_answer(loaded, (torch.arange(work.prompt_tokens) % vocabulary)[None], work.new_tokens)
    return torch.cuda.max_memory_allocated(loaded.device) if loaded.device.type == "cuda" else read_peak_memory()


@functools.cache
def _measure_idle() -> int:
    return _run_child(IDLE)


def _run_child(code: str, *arguments: str) -> int:
    """Run code in a new interpreter that can import this package, and return the last number it prints."""
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
            f"The process that measures peak memory failed: {'killed, probably out of memory' if killed else reason}.",
            "Use a machine with more memory, or leave speed out of --measures.",
        )
    return int(done.stdout.split()[-1])
