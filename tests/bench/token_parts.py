"""Time per decoded token by part, in milliseconds (medians).

Matrix products are timed one by one in the order of a decode step, minus the overhead of empty calls. Attention is the
difference of a block's second half with all tokens and with one. The rest of the compiled blocks' time is norms, rotary
positions, activations, and thread synchronization. Everything else is timed around the calls.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lsprism.generation.decode import decode_step, prefill
from lsprism.generation.sampler import Sampler
from lsprism.packed.formats import Dense
from lsprism.packed.kernels.cpu import CpuPacked, PackedBlock
from lsprism.packed.kernels.dispatch import load_kernels
from lsprism.packed.modules import DenseLinear, PrismLinear, get_product
from lsprism.specs import GenerateSpec

WARM_UP = 4  # tokens


def token_parts(model: nn.Module, prompt: torch.Tensor, tokens: int) -> dict[str, float]:
    """`model`: all blocks fused; prompt [1, n]."""
    spent: dict[str, float] = {}
    logits, cache = prefill(model, prompt)
    sampler, block = Sampler(GenerateSpec(greedy=True)), type(model.model.layers[0])
    linears = [m for m in model.model.layers.modules() if isinstance(m, PrismLinear | DenseLinear)]
    layers = [get_product(module).packed for module in linears]
    inputs = [torch.randn(1, one.columns).to(one.dtype) for one in layers]
    around = [(PackedBlock, "begin"), (PackedBlock, "end"), (CpuPacked, "multiply"), (type(cache), "update")]
    nothing = CpuPacked(load_kernels(), Dense(torch.zeros(1, 1, dtype=layers[0].dtype)), None)
    rows = []
    for _ in range(WARM_UP + tokens):
        spent.clear()
        with torch.inference_mode(), timed(spent, "matrices"):
            for one, x in zip(layers, inputs, strict=True):
                one.multiply(load_kernels(), x)
        with torch.inference_mode(), timed(spent, "calls"):
            for x in inputs:
                nothing.multiply(load_kernels(), x[:, :1])
        with short_past(), watched(spent, [(PackedBlock, "end")]):
            decode_step(model, 5, cache)
        short = spent.pop("end")
        cache.crop(-1)
        with watched(spent, [*around, (block, "forward")]), timed(spent, "all"):
            with timed(spent, "model"):
                logits, cache = decode_step(model, 5, cache)
            with timed(spent, "sampling"):
                sampler.sample(logits)
        rows.append(spent | {"attention": spent["end"] - short})
    ms = {part: statistics.median(row[part] for row in rows[WARM_UP:]) * 1000 for part in rows[0]}
    compiled, matrices = ms["begin"] + ms["end"], ms["matrices"] - ms["calls"]
    return {
        "matrices of the blocks": matrices,
        "attention": ms["attention"],
        "norms, rotation, activation, threads": compiled - matrices - ms["attention"],
        "output head": ms["multiply"],
        "cache": ms["update"],
        "Python of the blocks": ms["forward"] - compiled - ms["update"],
        "Python around the blocks, embedding, last norm": ms["model"] - ms["forward"] - ms["multiply"],
        "sampling": ms["sampling"],
        "all": ms["all"],
    }


@contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - started


@contextmanager
def short_past() -> Iterator[None]:
    """In this context, compiled blocks attend to one token only."""
    plain = PackedBlock.compute_output

    def end(self, native, x, query, keys, values):
        return plain(self, native, x, query, keys[:, :, -1:], values[:, :, -1:])

    with replaced(PackedBlock, "end", end):
        yield


@contextmanager
def watched(spent: dict[str, float], methods: list[tuple[type, str]]) -> Iterator[None]:
    """In this context, the time of these methods is summed by name."""
    if not methods:
        yield
        return
    (owner, name), *others = methods
    plain = getattr(owner, name)

    def method(*args, **settings):
        with timed(spent, name):
            return plain(*args, **settings)

    with replaced(owner, name, method), watched(spent, others):
        yield


@contextmanager
def replaced(owner: type, name: str, method: Callable) -> Iterator[None]:
    plain = getattr(owner, name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, plain)
