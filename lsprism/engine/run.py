"""Carries out a plan: the only loop. Yields events, ends with the report; closing the iterator stops it."""

import time
from collections.abc import Generator, Iterator

from torch import Tensor, nn

from lsprism.artifact.finish import finish
from lsprism.artifact.shards import is_whole, write_shard
from lsprism.artifact.staging import Checkpoint, Staging, staging
from lsprism.artifact.target import finished_report
from lsprism.calibration.walk import Walk
from lsprism.engine.blocks import BlockFeed
from lsprism.engine.memory import memory_errors
from lsprism.engine.plan import Draft
from lsprism.engine.site import compress_site
from lsprism.events import BlockClock, BlockDone, Event, Finished, Notice, Stage
from lsprism.layers.forms import Dense
from lsprism.layers.modules import PrismLinear
from lsprism.methods import method_of
from lsprism.methods.stats import InputStats
from lsprism.models.surgery import place
from lsprism.reports import LayerReport
from lsprism.specs import CompressSpec


def run(spec: CompressSpec, draft: Draft, tokens: Tensor, recipe: dict, text: str) -> Iterator[Event]:
    """Compress by the draft. tokens [samples, length] come from the text named `text`; `recipe` goes with the result.

    Interrupted anywhere, OUT.part stays; the same call with `spec.resume` goes on from its checkpoint and ends with the
    same bytes.
    """
    if spec.resume and (report := finished_report(spec.save_path, recipe, force=spec.force)):
        yield Notice(text=f"{spec.save_path} is already complete.")
        yield Finished(report=report)
        return
    started = time.monotonic()
    with memory_errors(), staging(spec.save_path, recipe, resume=spec.resume, force=spec.force) as stage:
        work = _Blocks(spec, draft, stage)
        yield Stage(name="calibrate", detail=f"{tokens.shape[0]} x {tokens.shape[1]} tokens of {text}")
        work.walk = work.feed.begin(tokens)
        last = yield from _last_checkpoint(stage, draft, work.walk)
        work.walk.hidden, layers = last.hidden, last.layers
        started -= last.seconds
        count = draft.anatomy.count
        yield Stage(name="compress", detail=f"{count} blocks, {spec.method} at sparsity {spec.sparsity:g}")
        clock = BlockClock(count, done=last.next_block)
        for index in range(clock.done, count):
            fresh = yield from work.block(index, clock)
            layers = [*layers, *fresh]
            stage.write_checkpoint(Checkpoint(index + 1, work.walk.hidden, layers, time.monotonic() - started))
            yield BlockDone(block=index + 1, of=count, layers=fresh, seconds=clock.block_done())
        yield Stage(name="write", detail=str(spec.save_path))
        work.write_outside()
        report = finish(stage, draft.plan, recipe, layers, seconds=time.monotonic() - started, calibration=text)
        yield Finished(report=report)


def _last_checkpoint(stage: Staging, draft: Draft, walk: Walk) -> Generator[Event, None, Checkpoint]:
    """Where to go on, or the beginning. A checkpoint counts only together with the shards that it tells of."""
    anew = Checkpoint(0, walk.hidden, [], 0.0)
    if not stage.begun:
        return anew
    checkpoint = stage.read_checkpoint()
    if wrong := _unusable(checkpoint, stage, draft, walk):
        yield Notice(text=f"{wrong}: starting again at the first block.")
        return anew
    yield Notice(text=f"Going on after block {checkpoint.next_block} of {draft.anatomy.count}.")
    return checkpoint


def _unusable(checkpoint: Checkpoint | None, stage: Staging, draft: Draft, walk: Walk) -> str:
    if checkpoint is None:
        return "The checkpoint cannot be read"
    if walk.stateful:
        return "This model's blocks share what no checkpoint holds"
    files = [draft.file_of_block(index) for index in range(checkpoint.next_block)]
    broken = [
        file for file, layout in zip(files, draft.blocks, strict=False) if not is_whole(stage.folder / file, layout)
    ]
    return f"{broken[0]} is missing or damaged" if broken else ""


class _Blocks:
    """The model's blocks, one at a time: weights in, statistics, compressed weights out."""

    def __init__(self, spec: CompressSpec, draft: Draft, stage: Staging) -> None:
        self.draft, self.stage = draft, stage
        self.method = method_of(spec.method, spec.effort)
        self.feed = BlockFeed(draft)
        self.plans = {p.site.name: p for p in draft.plan.sites}
        self.walk: Walk

    def block(self, index: int, clock: BlockClock) -> Generator[Event, None, list[LayerReport]]:
        """Compress block `index` and write its shard; returns the reports of its sites."""
        model, anatomy, walk = self.draft.model, self.draft.anatomy, self.walk
        block = self.feed.fill(index)
        sites = {site.name: model.get_submodule(site.name) for site in anatomy.of_block(index)}
        stats: dict[str, InputStats] = {}
        for part in walk.collect(index, block, sites, stats, self.method.needs_gram):
            yield clock.progress("measure", part * 0.4)
        if missed := [name for name, seen in stats.items() if not seen.tokens]:
            yield Notice(text=f"No token reached {', '.join(missed)}: compressed by weights alone.")
        reports = []
        for n, name in enumerate(sites, start=1):
            reports.append(self._site(name, stats))
            yield clock.progress("compress", 0.4 + 0.2 * n / len(sites))
        del stats, sites
        for part in walk.propagate(index, block):
            yield clock.progress("propagate", 0.6 + part * 0.4)
        self._write(index, block)
        self.feed.release(index)
        return reports

    def write_outside(self) -> None:
        """Copy what is left alone, a file at a time."""
        for number, layout in enumerate(self.draft.outside):
            tensors = self.feed.weights.read(layout)
            write_shard(self.stage.folder / self.draft.file_of_group(number), tensors)

    def _site(self, name: str, stats: dict[str, InputStats]) -> LayerReport:
        form, bias, report = compress_site(self.draft.model, self.plans[name], stats.get(name), self.method)
        if not isinstance(form, Dense):
            place(self.draft.model, name, PrismLinear(form, bias))
        return report

    def _write(self, index: int, block: nn.Module) -> None:
        prefix = self.draft.anatomy.block_name(index)
        tensors = {f"{prefix}.{name}": tensor.to("cpu").contiguous() for name, tensor in block.state_dict().items()}
        assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == self.draft.blocks[index]
        write_shard(self.stage.folder / self.draft.file_of_block(index), tensors)
