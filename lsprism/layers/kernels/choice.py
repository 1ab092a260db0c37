"""Which way to multiply by a form is the fastest on this machine: measured once for each form, shape and number of
threads, and kept in a file beside the compiled kernels. A new version of these measures anew."""

import json
import logging
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lsprism.layers.kernels.build import usable_levels, version
from lsprism.paths import cache_folder
from lsprism.reports import FormName, LayerBudget, ValuesName

Shape = tuple[int, int]  # rows, columns
SMALL = 1 << 18  # parameters: below, a call takes longer than the product, and the kernels' calls are the shortest
MARGIN = 1.2  # that torch must be faster by: the kernels also do several layers in one call
CALLS, FAIR, ENOUGH_S = 9, 4, 0.1  # calls of each, of which all may make the first ones

logger = logging.getLogger("lsprism.layers.kernels")


def fastest(key: str, ways: dict[str, Callable[[], object]]) -> str:
    """The name of the fastest of `ways`, the first unless another is clearly faster; `key` is what `describe` says."""
    known = read_cached(_file(usable_levels()[-1]))
    if known.get(key) in ways:
        return known[key]
    seconds = _seconds(ways)
    first, best = next(iter(ways)), min(seconds, key=seconds.__getitem__)
    choice = best if seconds[first] > MARGIN * seconds[best] else first
    known[key] = choice
    write_cached(_file(usable_levels()[-1]), known)
    logger.info("%s: %s (%s)", key, choice, ", ".join(f"{name} {s * 1e6:.0f} us" for name, s in seconds.items()))
    return choice


def describe(form: FormName, shape: Shape, budget: LayerBudget, values: ValuesName, dtype: torch.dtype) -> str:
    """What a choice depends on, in words.

    Layers of one model may keep shares of their own, which make no difference here: of the parameters kept only the
    fifth counts, of the rank the power of two that it does not exceed.
    """
    rows, columns = shape
    share = round(5 * budget.kept / (rows * columns))
    rank = 1 << (budget.rank - 1).bit_length() if budget.rank else 0
    numbers = f"{values} {str(dtype).removeprefix('torch.')}"
    return f"{form} {rows}x{columns}, {share}/5, rank {rank}, {numbers}, {torch.get_num_threads()} threads"


def recorded(form: FormName, shape: Shape, budget: LayerBudget, values: ValuesName, dtype: torch.dtype) -> str:
    """What was chosen; where nothing was measured so far, the best level of instructions, which is tried first."""
    level = usable_levels()[-1]
    return read_cached(_file(level)).get(describe(form, shape, budget, values, dtype), level)


def _seconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of the fastest call of each; they take turns, and who is hopeless, not just once delayed, is not asked again."""
    seconds = dict.fromkeys(ways, float("inf"))
    spent = dict.fromkeys(ways, 0.0)
    for turn in range(1 + CALLS):  # the first warms up
        for name, way in ways.items():
            if turn >= FAIR and (spent[name] > ENOUGH_S or seconds[name] > 4 * min(seconds.values())):
                continue
            started = time.perf_counter()
            way()
            took = time.perf_counter() - started
            spent[name] += took
            seconds[name] = min(seconds[name], took)
    return seconds


def _file(level: str) -> Path:
    return cache_folder() / f"choices-{level}-{version(level)}.json"


@cache
def read_cached(path: Path) -> dict[str, Any]:
    """Entries of a JSON file; empty where there is no file that can be read. The one dict is what the process knows."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_cached(path: Path, known: dict[str, Any]) -> None:
    """Whole or absent; a cache that cannot be written is no reason to stop."""
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        beside.replace(path)
    except OSError:
        logger.info("Measurements of this machine cannot be cached in %s.", path.parent)
