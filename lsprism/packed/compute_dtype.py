"""Picks the dtype of matrix products over many tokens; compute.py applies it.

`auto` never reduces precision: it is the storage dtype, or float32 where that is faster. On a CPU, this is decided by a
short measurement, which is cached next to the tuned kernels, or by the instruction set if the difference is small. CUDA
devices before sm_80 emulate bfloat16.
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
from lsprism.packed.compute import convert_products
from lsprism.packed.kernels.autotune import read_cached, write_cached
from lsprism.paths import cache_folder

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOKENS, ROWS, COLUMNS = 512, 1024, 1024  # of the product to time
REPEATS = 3
PROCESSES = 3  # number of processes that time the product; the best result is cached
TIMES = "times"  # cache key: number of processes so far
CLEAR = 1.2  # smallest ratio of two speeds that is not considered noise
_requested = "auto"


@contextmanager
def use_compute_dtype(name: str) -> Iterator[None]:
    """Inside the `with`, all models of the process use this compute dtype for many tokens; `auto`: the fastest."""
    global _requested
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before


def get_requested_compute_dtype() -> str:
    """The name that `use_compute_dtype` has set."""
    return _requested


def apply_compute_dtype(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Context for a forward pass of a loaded model over many tokens, on this thread."""
    return convert_products(get_compute_dtype(model))


def get_compute_dtype(model: PreTrainedModel) -> torch.dtype:
    """The compute dtype of `model`, as requested for the process."""
    return select_compute_dtype(_requested, model.dtype, model.device)


def format_compute_dtype(model: PreTrainedModel) -> str:
    """The compute dtype of `model` as named in reports."""
    return _format_dtype(get_compute_dtype(model))


def select_compute_dtype(name: str, storage: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype `name`; `auto`: the storage dtype or float32, whichever is faster. SpecError for an unknown name."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SpecError(f"--compute-dtype {name!r} is unknown.", f"Choose auto, {', '.join(DTYPES)}.")
    if storage is torch.float32:
        return storage
    if device.type == "cuda":
        emulated = storage is torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0)
        return torch.float32 if emulated else storage
    return _find_fastest_on_cpu(storage) if device.type == "cpu" else storage


def measure_rates(storage: torch.dtype) -> dict[torch.dtype, float]:
    """FLOP/s of a large product on this CPU with this number of threads, for the storage dtype and for float32.

    Cached: the best measurement of the first PROCESSES processes, because the machine may be busy during one of them.
    """
    return _load_rates(_make_key(storage), storage)


@cache
def _load_rates(key: str, storage: torch.dtype) -> dict[torch.dtype, float]:
    path = cache_folder() / "products.json"
    known = read_cached(path)
    entry: dict[str, Any] = known[key] if _is_usable(known.get(key), storage) else {TIMES: 0}
    if entry[TIMES] < PROCESSES:
        found = {_format_dtype(dtype): rate for dtype, rate in _measure_products(storage).items()}
        best = {name: max(rate, entry.get(name, 0.0)) for name, rate in found.items()}
        known[key] = entry = {**best, TIMES: entry[TIMES] + 1}
        write_cached(path, known)
    return {DTYPES[name]: rate for name, rate in entry.items() if name in DTYPES}


def _find_fastest_on_cpu(storage: torch.dtype) -> torch.dtype:
    rates = measure_rates(storage)
    if rates[storage] > CLEAR * rates[torch.float32]:
        return storage
    if rates[torch.float32] > CLEAR * rates[storage]:
        return torch.float32
    return storage if _has_instructions(storage) else torch.float32


def _measure_products(storage: torch.dtype) -> dict[torch.dtype, float]:
    """Time both dtypes alternately. A dtype that torch does not support has rate 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(TOKENS, COLUMNS, generator=generator).to(storage)
    weight = torch.rand(ROWS, COLUMNS, generator=generator).to(storage)
    seconds = dict.fromkeys((storage, torch.float32), float("inf"))
    for repeat in range(1 + REPEATS):
        for dtype in seconds:
            took = _measure_product(x, weight, dtype)
            if repeat:  # the first one warms up
                seconds[dtype] = min(seconds[dtype], took)
    return {dtype: 2 * TOKENS * ROWS * COLUMNS / least for dtype, least in seconds.items()}


@torch.no_grad()
def _measure_product(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> float:
    started = time.perf_counter()
    try:
        with convert_products(None if dtype is x.dtype else dtype):
            F.linear(x, weight)
    except RuntimeError:
        return float("inf")
    return time.perf_counter() - started


def _make_key(storage: torch.dtype) -> str:
    """The cache key: everything that a rate depends on. Environment variables may limit the instruction set."""
    level = torch.backends.cpu.get_cpu_capability()
    native = ", ".join(_format_dtype(dtype) for dtype in (torch.bfloat16, torch.float16) if _has_instructions(dtype))
    return f"{_format_dtype(storage)}, {level}, {native or 'no'} instructions, {torch.get_num_threads()} threads"


@cache
def _has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for matrix products of `dtype`."""
    has = torch.cpu.get_capabilities()
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    names = {torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"), torch.float16: ("amx_fp16", "avx512_fp16", "fp16")}
    return any(has.get(name) for name in names.get(dtype, ()))


def _is_usable(rates: object, storage: torch.dtype) -> bool:
    """Whether a cached entry has the format of `measure_rates`."""
    if not isinstance(rates, dict) or not isinstance(rates.get(TIMES), int):
        return False
    return all(isinstance(rates.get(name), float) for name in (_format_dtype(storage), "float32"))


def _format_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
