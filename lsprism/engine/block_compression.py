"""Compresses the layers of one block: in order with error compensation where possible, the others together."""

from collections.abc import Collection, Generator, Iterator
from copy import deepcopy

from torch import nn

from lsprism.calibration.blockwise import BlockwiseForward
from lsprism.calibration.cached_block import CachedBlock
from lsprism.engine.block_progress import ADVANCE_DENSE_WEIGHT, COMPRESS_WEIGHT, MEASURE_WEIGHT, BlockProgress
from lsprism.engine.layer import compress_layer, compute_target
from lsprism.engine.memory_estimate import trim_heap
from lsprism.engine.plan import PreparedPlan
from lsprism.events import Event, Notice
from lsprism.methods.base import Method
from lsprism.methods.stats import InputStats
from lsprism.models.module_utils import replace_module
from lsprism.packed.formats import Dense
from lsprism.packed.modules import PrismLinear
from lsprism.records.compression import LayerReport


class BlockCompression:
    """The layers of one loaded block, which are replaced by compressed ones."""

    def __init__(
        self, draft: PreparedPlan, walk: BlockwiseForward, index: int, block: CachedBlock, method: Method
    ) -> None:
        self.model = draft.model
        self.walk = walk
        self.index = index
        self.block = block
        self.method = method
        names = [layer.name for layer in draft.anatomy.get_block_layers(index)]
        prefix = f"{draft.anatomy.get_block_name(index)}."
        self.layers = {name: self.model.get_submodule(name) for name in names}
        self.inner_names = {name: name.removeprefix(prefix) for name in names}
        self.plans = {plan.site.name: plan for plan in draft.plan.sites if plan.site.name in self.layers}
        self.reports: dict[str, LayerReport] = {}

    def compress(self, progress: BlockProgress, *, compensates: bool) -> Generator[Event, None, list[LayerReport]]:
        """Compress all layers and return their reports in the layers' order.

        `compensates`: with error compensation, except for layers that see only some tokens. The dense hidden states
        are advanced too, if the walk has them.
        """
        groups = self.walk.find_shared_inputs(self.index, self.block.block, self.layers) if compensates else []
        in_order = {name for group in groups for name in group}
        together = [name for name in self.layers if name not in in_order]
        share = 1 / max(1, len(groups) + bool(together))
        dense = _DenseBlock(self.walk, self.index, self.block.block)
        if together:
            yield from self._compress_together(together, progress, share)
        if groups:
            yield from self._compress_in_order(groups, dense, progress, share)
        elif self.walk.dense:
            yield from progress.track("teach", dense.advance(), weight=ADVANCE_DENSE_WEIGHT)
        return [self.reports[name] for name in self.layers]

    def _compress_together(self, names: list[str], progress: BlockProgress, share: float) -> Iterator[Event]:
        """Compress layers on the inputs that the block has before its compression."""
        layers = {name: self.layers[name] for name in names}
        stats: dict[str, InputStats] = {}
        collecting = self.walk.collect_stats(self.index, self.block.block, layers, stats, gram=self.method.needs_gram)
        yield from progress.track("measure", collecting, weight=MEASURE_WEIGHT * share)
        if unreached := [name for name, seen in stats.items() if not seen.tokens]:
            listed = ", ".join(unreached)
            yield Notice(text=f"No calibration token reached {listed}: compressed without calibration.")
        compressing = self._compress_layers(names, stats)
        yield from progress.track("compress", compressing, weight=COMPRESS_WEIGHT * share)

    def _compress_in_order(
        self, groups: list[list[str]], dense: "_DenseBlock", progress: BlockProgress, share: float
    ) -> Iterator[Event]:
        """Compress groups of layers that have the same input, in the order of execution, with error compensation.

        Each group is compressed on the inputs that the layers compressed before it produce.
        """
        done: list[str] = []
        for group in groups:
            first = group[0]
            seen = InputStats(
                self.plans[first].site.columns,
                gram=True,
                batches=len(self.walk.hidden),
                device=self.walk.device,
            )
            collecting = dense.collect_paired_stats(self.block, self.inner_names[first], seen, last=group is groups[-1])
            yield from progress.track("measure", collecting, weight=MEASURE_WEIGHT * share)
            compressing = self._compress_layers(group, dict.fromkeys(group, seen))
            yield from progress.track("compress", compressing, weight=COMPRESS_WEIGHT * share)
            done += [self.inner_names[name] for name in group]
            self.block.mark_done(done, self.inner_names.values())
            dense.mark_done(done, self.inner_names.values())

    def _compress_layers(self, names: list[str], stats: dict[str, InputStats]) -> Iterator[float]:
        """Compress the layers `names`, keep their reports, and yield the fraction done after each."""
        trim_heap()  # the next tensors have other sizes than activations
        targets = {name: compute_target(self.model, self.plans[name], stats.get(name), self.method) for name in names}
        for seen in stats.values():
            seen.release_drift()
        for n, name in enumerate(names, start=1):
            form, bias, report = compress_layer(
                self.model, self.plans[name], targets.pop(name), stats.get(name), self.method
            )
            if not isinstance(form, Dense):
                replace_module(self.model, name, PrismLinear(form, bias))
            self.reports[name] = report
            yield n / len(names)
        trim_heap()


class _DenseBlock:
    """A copy of the block before its compression, if the walk tracks the dense model.

    It advances the dense hidden states once, and its memory is free afterwards.
    """

    def __init__(self, walk: BlockwiseForward, index: int, block: nn.Module) -> None:
        self.walk = walk
        self.index = index
        self.copy = CachedBlock(deepcopy(block)) if walk.dense else None

    def collect_paired_stats(
        self, compressed: CachedBlock, name: str, stats: InputStats, *, last: bool
    ) -> Iterator[float]:
        """Collect paired inputs of the layer `name` of both blocks; the last time, advance the dense hidden states."""
        assert self.copy is not None  # until the last time
        yield from self.walk.collect_paired_stats(self.index, (compressed, self.copy), name, stats, teach=last)
        if last:
            self._free()

    def advance(self) -> Iterator[float]:
        """Advance the dense hidden states by a pass of their own."""
        assert self.copy is not None
        yield from self.walk.advance_dense(self.index, self.copy)
        self._free()

    def mark_done(self, done: list[str], layers: Collection[str]) -> None:
        """See CachedBlock.mark_done."""
        if self.copy is not None:
            self.copy.mark_done(done, layers)

    def _free(self) -> None:
        assert self.copy is not None
        self.copy.reset()  # breaks a reference cycle, so that the memory is free at once
        self.copy = None
