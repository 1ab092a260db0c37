"""Autotuning: the fastest implementation per format, shape and number of threads on this machine.

Measured once and cached in a file next to the compiled kernels; a new version of the kernels is measured again.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lsprism.packed.kernels.build import compute_version, list_usable_levels
from lsprism.paths import cache_folder
from lsprism.records.model_plan import FormName, LayerBudget, ValuesName

Shape = tuple[int, int]  # rows, columns
SMALL = 1 << 18  # parameters: smaller products are dominated by call overhead, where the kernels always win
MARGIN = 1.2  # PyTorch must be this much faster: the kernels can also compute several layers in one call
MAX_CALLS = 9  # calls per candidate, after one warmup call
MIN_CALLS = 4  # calls of every candidate, including the warmup, before slow ones are dropped
MAX_SECONDS = 0.1  # per candidate, once it has made MIN_CALLS

logger = logging.getLogger("lsprism.packed.kernels")


def select_fastest(key: str, ways: dict[str, Callable[[], object]]) -> str:
    """The name of the fastest of `ways`; the first unless another one is clearly faster. `key`: see `make_key`."""
    known = read_cached(_get_file(list_usable_levels()[-1]))
    if known.get(key) in ways:
        return known[key]
    seconds = _measure_seconds(ways)
    first, best = next(iter(ways)), min(seconds, key=seconds.__getitem__)
    choice = best if seconds[first] > MARGIN * seconds[best] else first
    known[key] = choice
    write_cached(_get_file(list_usable_levels()[-1]), known)
    logger.info("%s: %s (%s)", key, choice, ", ".join(f"{name} {s * 1e6:.0f} us" for name, s in seconds.items()))
    return choice


def make_key(form: FormName, shape: Shape, budget: LayerBudget, values: ValuesName, dtype: torch.dtype) -> str:
    """The cache key: everything that the choice depends on.

    The density is rounded to fifths and the rank up to a power of two, so that layers with similar budgets share one
    measurement.
    """
    rows, columns = shape
    share = round(5 * budget.kept / (rows * columns))
    rank = 1 << (budget.rank - 1).bit_length() if budget.rank else 0
    numbers = f"{values} {str(dtype).removeprefix('torch.')}"
    return f"{form} {rows}x{columns}, {share}/5, rank {rank}, {numbers}, {torch.get_num_threads()} threads"


def load_choice(form: FormName, shape: Shape, budget: LayerBudget, values: ValuesName, dtype: torch.dtype) -> str:
    """The cached choice; the best instruction set if nothing has been measured yet."""
    level = list_usable_levels()[-1]
    return read_cached(_get_file(level)).get(make_key(form, shape, budget, values, dtype), level)


def _measure_seconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each candidate's fastest call. Candidates are called alternately; clearly slow ones are dropped."""
    seconds = dict.fromkeys(ways, float("inf"))
    spent = dict.fromkeys(ways, 0.0)
    for turn in range(1 + MAX_CALLS):
        for name, way in ways.items():
            if turn >= MIN_CALLS and (spent[name] > MAX_SECONDS or seconds[name] > 4 * min(seconds.values())):
                continue
            started = time.perf_counter()
            way()
            took = time.perf_counter() - started
            spent[name] += took
            seconds[name] = min(seconds[name], took)
    return seconds


def _get_file(level: str) -> Path:
    return cache_folder() / f"choices-{level}-{compute_version(level)}.json"


@cache
def read_cached(path: Path) -> dict[str, Any]:
    """The entries of a JSON file; empty if it cannot be read. All callers of a process share the dict."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_cached(path: Path, known: dict[str, Any]) -> None:
    """Write atomically. A cache that cannot be written is logged, not raised."""
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        beside.replace(path)
    except OSError:
        logger.info("Speed measurements cannot be cached in %s.", path.parent)
