"""Hooks that collect input statistics of the layers of a block."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lsprism.methods.stats import InputStats


class InputStatsHooks:
    """Fills a dict of layer name -> InputStats. Layers that receive the same tensor object (q, k, v) share one."""

    def __init__(self, stats: dict[str, InputStats], *, gram: bool, batches: int) -> None:
        self.stats = stats
        self.gram = gram
        self.batches = batches
        self._last: tuple[Tensor, int, str] | None = None  # the last input, its version, and its layer

    def update(self, name: str, x: Tensor) -> None:
        if self._last is not None and self._last[0] is x and self._last[1] == x._version:
            self.stats.setdefault(name, self.stats[self._last[2]])
            if self.stats[name] is self.stats[self._last[2]]:
                return
        if name not in self.stats:
            self.stats[name] = InputStats(x.shape[-1], gram=self.gram, batches=self.batches, device=x.device)
        self.stats[name].add(x)
        self._last = x, x._version, name

    def release_inputs(self) -> None:
        """Drop the reference to the last input; call it after each batch."""
        self._last = None


@contextmanager
def track_input_stats(
    sites: dict[str, nn.Module], stats: dict[str, InputStats], *, gram: bool, batches: int
) -> Iterator[InputStatsHooks]:
    """Inside the `with`, collect the inputs of every forward of the modules `sites` into `stats`."""
    watch = InputStatsHooks(stats, gram=gram, batches=batches)
    with ExitStack() as hooks:
        for name, module in sites.items():

            def hook(_module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                watch.update(name, args[0] if args else next(iter(kwargs.values())))

            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield watch


class _StopAtLayer(Exception):
    """Ends a forward at a layer."""


def capture_input(
    site: nn.Module, forward: Callable[[], Tensor], *, go_on: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The input of `site` during `forward`, which must reach it, and with `go_on` the result of `forward`.

    Without `go_on`, the forward stops at that layer and the result is None.
    """
    seen: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        seen.append(x.clone() if go_on else x)  # later modules may modify it in place
        if not go_on:
            raise _StopAtLayer

    handle = site.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        answer = forward()
    except _StopAtLayer:
        answer = None
    finally:
        handle.remove()
    return seen[0], answer


def make_unreached_stats(site: nn.Module, *, gram: bool) -> InputStats:
    """Statistics for a layer that no calibration token reached (a rarely used expert): X = identity, 0 tokens.

    Methods then use the weights alone, and the output error is the error of the weights.
    """
    weight = site.get_parameter("weight")
    columns = weight.shape[1 if isinstance(site, nn.Linear) else 0]
    parts = torch.arange(columns, device=weight.device).split(512)
    stats = InputStats(columns, gram=gram, batches=len(parts), device=weight.device)
    for part in parts:
        stats.add(nn.functional.one_hot(part, columns).to(weight.dtype))
    stats.tokens = 0
    return stats
