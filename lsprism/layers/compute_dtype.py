"""Picks the dtype that products of many tokens are computed in: see compute.py for how they are.

`auto` never computes with fewer bits than are stored: it is the storage dtype, or float32 where that is faster. On a
CPU one short measurement decides, which is cached with the choices of kernels; where it is not clear, the instruction
set does. CUDA devices before sm_80 emulate bfloat16.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from lsprism.errors import SpecError
from lsprism.layers.compute import computing_in
from lsprism.layers.kernels.choice import read_cached, write_cached
from lsprism.paths import cache_folder

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOKENS, ROWS, COLUMNS = 512, 1024, 1024  # of the product that is timed
REPEATS = 3
PROCESSES, TIMES = 3, "times"
CLEAR = 1.2  # ratio of two speeds that noise does not make
_requested = "auto"


@contextmanager
def using_compute_dtype(name: str) -> Iterator[None]:
    """Inside, every model of the process that reads many tokens computes in this dtype, or in the fastest (`auto`)."""
    global _requested
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before


def requested_compute_dtype() -> str:
    """What `using_compute_dtype` was given."""
    return _requested


def reading_many(model: PreTrainedModel) -> AbstractContextManager[None]:
    """For a forward pass of a loaded model over many tokens, on this thread."""
    return computing_in(compute_dtype_of(model))


def compute_dtype_of(model: PreTrainedModel) -> torch.dtype:
    """What products of many tokens are computed in, as requested for the process."""
    return pick_compute_dtype(_requested, model.dtype, model.device)


def name_compute_dtype(model: PreTrainedModel) -> str:
    """The same, as reports name it."""
    return _name(compute_dtype_of(model))


def pick_compute_dtype(name: str, storage: torch.dtype, device: torch.device) -> torch.dtype:
    """`auto`: the storage dtype or float32, whichever is faster; SpecError for an unknown name."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SpecError(f"--compute-dtype {name!r} is unknown.", f"Choose auto, {', '.join(DTYPES)}.")
    if storage is torch.float32:
        return storage
    if device.type == "cuda":
        emulated = storage is torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0)
        return torch.float32 if emulated else storage
    return _fastest_on_cpu(storage) if device.type == "cpu" else storage


def measure_rates(storage: torch.dtype) -> dict[torch.dtype, float]:
    """FLOP/s of a large product on this CPU with this number of threads, by compute dtype: that of the storage, and
    float32. Cached: the best of what the first PROCESSES processes have timed, since a machine may be busy."""
    return _measured(_describe(storage), storage)


@cache
def _measured(key: str, storage: torch.dtype) -> dict[torch.dtype, float]:
    path = cache_folder() / "products.json"
    known = read_cached(path)
    entry: dict[str, Any] = known[key] if _is_usable(known.get(key), storage) else {TIMES: 0}
    if entry[TIMES] < PROCESSES:
        found = {_name(dtype): rate for dtype, rate in _time_products(storage).items()}
        best = {name: max(rate, entry.get(name, 0.0)) for name, rate in found.items()}
        known[key] = entry = {**best, TIMES: entry[TIMES] + 1}
        write_cached(path, known)
    return {DTYPES[name]: rate for name, rate in entry.items() if name in DTYPES}


def _fastest_on_cpu(storage: torch.dtype) -> torch.dtype:
    rates = measure_rates(storage)
    if rates[storage] > CLEAR * rates[torch.float32]:
        return storage
    if rates[torch.float32] > CLEAR * rates[storage]:
        return torch.float32
    return storage if _has_instructions(storage) else torch.float32


def _time_products(storage: torch.dtype) -> dict[torch.dtype, float]:
    """The ways take turns. A way that torch does not know has rate 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(TOKENS, COLUMNS, generator=generator).to(storage)
    weight = torch.rand(ROWS, COLUMNS, generator=generator).to(storage)
    seconds = dict.fromkeys((storage, torch.float32), float("inf"))
    for repeat in range(1 + REPEATS):
        for dtype in seconds:
            took = _time_product(x, weight, dtype)
            if repeat:  # the first one warms up
                seconds[dtype] = min(seconds[dtype], took)
    return {dtype: 2 * TOKENS * ROWS * COLUMNS / least for dtype, least in seconds.items()}


@torch.no_grad()
def _time_product(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> float:
    started = time.perf_counter()
    try:
        with computing_in(None if dtype is x.dtype else dtype):
            F.linear(x, weight)
    except RuntimeError:
        return float("inf")
    return time.perf_counter() - started


def _describe(storage: torch.dtype) -> str:
    """What a rate depends on. The instruction set may be limited by environment variables."""
    level = torch.backends.cpu.get_cpu_capability()
    native = ", ".join(_name(dtype) for dtype in (torch.bfloat16, torch.float16) if _has_instructions(dtype))
    return f"{_name(storage)}, {level}, {native or 'no'} instructions, {torch.get_num_threads()} threads"


@cache
def _has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of `dtype` by instructions of its own."""
    has = torch.cpu.get_capabilities()
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    names = {torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"), torch.float16: ("amx_fp16", "avx512_fp16", "fp16")}
    return any(has.get(name) for name in names.get(dtype, ()))


def _is_usable(rates: object, storage: torch.dtype) -> bool:
    """Whether a cached entry is what `measure_rates` writes."""
    if not isinstance(rates, dict) or not isinstance(rates.get(TIMES), int):
        return False
    return all(isinstance(rates.get(name), float) for name in (_name(storage), "float32"))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
