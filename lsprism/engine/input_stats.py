"""Input statistics of every layer of the uncompressed model: one pass over the blocks."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lsprism.engine.blocks import BlockLoader
from lsprism.engine.layer import check_weight
from lsprism.engine.plan import PreparedPlan
from lsprism.events import BlockClock, Event, Stage
from lsprism.records.compression import LayerInputStats

OUTLIER = 5.0  # an outlier feature has a norm above this many times the mean norm of the layer's features


def stream_input_stats(draft: PreparedPlan, tokens: Tensor) -> Iterator[Event | LayerInputStats]:
    """Yield events, and after each block the statistics of its layers. tokens [samples, length]."""
    feed = BlockLoader(draft)
    model = draft.model
    walk = feed.start(tokens)
    clock = BlockClock(draft.anatomy.count)
    yield Stage(name="measure", detail=f"{draft.anatomy.count} blocks, {tokens.shape[0]} x {tokens.shape[1]} tokens")
    for index in range(draft.anatomy.count):
        block = feed.load(index)
        meters = {site.name: _InputStatsHook(site.columns) for site in draft.anatomy.get_block_layers(index)}
        with ExitStack() as hooks:
            for name, meter in meters.items():
                site = model.get_submodule(name)
                check_weight(name, site.get_parameter("weight"))
                hooks.callback(site.register_forward_pre_hook(meter.update, with_kwargs=True).remove)
            for part in walk.advance(index, block):
                yield clock.make_progress("measure", part)
        yield from (meter.get_stats(name, index) for name, meter in meters.items())
        feed.release(index)
        clock.next_block()


class _InputStatsHook:
    """Sums over the inputs of one layer."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.tokens = 0
        self.total = 0.0
        self.largest = 0.0
        self.squares = torch.zeros(columns, dtype=torch.float64)

    def update(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = (args[0] if args else next(iter(kwargs.values()))).detach().reshape(-1, self.columns).float()
        self.tokens += len(x)
        self.total += x.abs().mean(dim=1).double().sum().item()
        self.largest = max(self.largest, x.abs().max().item())
        self.squares += torch.linalg.vector_norm(x, dim=0).double().square().cpu()

    def get_stats(self, name: str, block: int) -> LayerInputStats:
        norms = self.squares.sqrt()
        mean = norms.mean().item()
        return LayerInputStats(
            name=name,
            block=block,
            columns=self.columns,
            tokens=self.tokens,
            mean=self.total / max(self.tokens, 1),
            max=self.largest,
            norm=mean,
            outlier_share=(norms > OUTLIER * mean).double().mean().item(),
            dead=int((norms == 0).sum()),
        )
