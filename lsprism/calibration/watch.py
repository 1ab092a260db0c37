"""Measures what flows into the linear sites of a block, with hooks that a `with` takes away again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lsprism.methods.stats import InputStats


class Watch:
    """Fills site name -> InputStats. Sites that are handed the very same tensor (q, k, v) share one."""

    def __init__(self, stats: dict[str, InputStats], *, gram: bool, batches: int) -> None:
        self.stats, self.gram, self.batches = stats, gram, batches
        self._last: tuple[Tensor, int, str] | None = None  # tensor, its version, site that measured it

    def see(self, name: str, x: Tensor) -> None:
        if self._last is not None and self._last[0] is x and self._last[1] == x._version:
            self.stats.setdefault(name, self.stats[self._last[2]])
            if self.stats[name] is self.stats[self._last[2]]:
                return
        if name not in self.stats:
            self.stats[name] = InputStats(x.shape[-1], gram=self.gram, batches=self.batches, device=x.device)
        self.stats[name].add(x)
        self._last = x, x._version, name

    def forget_inputs(self) -> None:
        """After a batch: hold no tensor of it."""
        self._last = None


@contextmanager
def watching(sites: dict[str, nn.Module], stats: dict[str, InputStats], *, gram: bool, batches: int) -> Iterator[Watch]:
    """While the `with` lasts, every forward of a site's module is measured into `stats`."""
    watch = Watch(stats, gram=gram, batches=batches)
    with ExitStack() as hooks:
        for name, module in sites.items():

            def hook(_module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                watch.see(name, args[0] if args else next(iter(kwargs.values())))

            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield watch


class _Reached(Exception):
    """Ends a forward at a site."""


def input_of(site: nn.Module, forward: Callable[[], Tensor], *, go_on: bool = False) -> tuple[Tensor, Tensor | None]:
    """What `forward` hands to `site`, which it must reach, and with `go_on` its answer; else it is stopped there."""
    seen: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        seen.append(x.clone() if go_on else x)  # what is run later may work in place
        if not go_on:
            raise _Reached

    handle = site.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        answer = forward()
    except _Reached:
        answer = None
    finally:
        handle.remove()
    return seen[0], answer


def unreached(site: nn.Module, *, gram: bool) -> InputStats:
    """Stands for a layer that no calibration token reached (a rarely chosen expert): each feature once, 0 tokens.

    X is the identity, so that methods go by the weights alone, and the output error is that of the weights.
    """
    weight = site.get_parameter("weight")
    columns = weight.shape[1 if isinstance(site, nn.Linear) else 0]
    parts = torch.arange(columns, device=weight.device).split(512)
    stats = InputStats(columns, gram=gram, batches=len(parts), device=weight.device)
    for part in parts:
        stats.add(nn.functional.one_hot(part, columns).to(weight.dtype))
    stats.tokens = 0
    return stats
