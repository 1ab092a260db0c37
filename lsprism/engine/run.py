"""Carries out a plan: the only loop. Yields events, ends with the report; closing the iterator stops it."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lsprism.artifact.finish import finish
from lsprism.artifact.shards import write_shard
from lsprism.artifact.staging import Checkpoint, Staging, finished_report, staging
from lsprism.calibration.walk import Walk, capture
from lsprism.engine.plan import Draft
from lsprism.engine.site import compress_site
from lsprism.errors import DamagedError
from lsprism.events import BlockClock, BlockDone, Event, Finished, Notice, Stage
from lsprism.layers.forms import Dense
from lsprism.layers.modules import PrismLinear
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats
from lsprism.models.surgery import place
from lsprism.models.weights import WeightFiles, fill
from lsprism.reports import LayerReport
from lsprism.specs import CompressSpec


def run(spec: CompressSpec, draft: Draft, tokens: Tensor, recipe: dict, text: str) -> Iterator[Event]:
    """Compress by the draft. tokens [samples, length] come from the text named `text`; `recipe` goes with the result.

    Interrupted anywhere, OUT.part stays; the same call with `spec.resume` goes on from its checkpoint and ends with the
    same bytes.
    """
    if spec.resume and (report := finished_report(spec.save_path, recipe)):
        yield Notice(text=f"{spec.save_path} is already complete.")
        yield Finished(report=report)
        return
    with staging(spec.save_path, recipe, resume=spec.resume, force=spec.force) as stage:
        layers: list[LayerReport] = []
        started = time.monotonic()
        work = _Blocks(spec, draft, stage)
        yield Stage(name="calibrate", detail=f"{tokens.shape[0]} x {tokens.shape[1]} tokens of {text}")
        checkpoint = work.begin(tokens)
        if checkpoint.next_block:
            yield Notice(text=f"Going on at block {checkpoint.next_block + 1} of {draft.anatomy.count}.")
        layers += checkpoint.layers
        started -= checkpoint.seconds
        yield Stage(
            name="compress", detail=f"{draft.anatomy.count} blocks, {spec.method} at sparsity {spec.sparsity:g}"
        )
        clock = BlockClock(draft.anatomy.count, done=checkpoint.next_block)
        for index in range(checkpoint.next_block, draft.anatomy.count):
            fresh = yield from work.block(index, clock)
            layers += fresh
            work.note(index, layers, time.monotonic() - started)
            yield BlockDone(block=index + 1, of=draft.anatomy.count, layers=fresh, seconds=clock.block_done())
        yield Stage(name="write", detail=str(spec.save_path))
        work.write_outside()
        report = finish(stage, draft.plan, recipe, layers, seconds=time.monotonic() - started, calibration=text)
        yield Finished(report=report)


class _Blocks:
    """The model's blocks, one at a time: weights in, statistics, compressed weights out."""

    def __init__(self, spec: CompressSpec, draft: Draft, stage: Staging) -> None:
        self.draft, self.stage = draft, stage
        self.method = METHODS[spec.method]
        self.weights = WeightFiles(draft.plan.source.folder, draft.model.base_model_prefix)
        self.plans = {p.site.name: p for p in draft.plan.sites}
        self.walk: Walk

    def begin(self, tokens: Tensor) -> Checkpoint:
        """Capture what the blocks are handed; take the hidden states of the last checkpoint, if there is one."""
        model, anatomy = self.draft.model, self.draft.anatomy
        blocks = model.get_submodule(anatomy.blocks)
        outside = [name for layout in self.draft.outside for name in layout if self._runs_before(name)]
        self._assign(outside)
        self._fill(0)
        self.walk = capture(model, blocks, tokens, self.draft.device)
        self._release(0)
        self._forget(outside)
        checkpoint = self.stage.read_checkpoint() or Checkpoint(0, self.walk.hidden, [], 0.0)
        self.walk.hidden = checkpoint.hidden
        return checkpoint

    def block(self, index: int, clock: BlockClock) -> Iterator[Event]:
        """Compress block `index` and write its shard; returns the reports of its sites."""
        model, anatomy, walk = self.draft.model, self.draft.anatomy, self.walk
        self._fill(index)
        block = model.get_submodule(anatomy.block_name(index))
        sites = {site.name: model.get_submodule(site.name) for site in anatomy.of_block(index)}
        stats: dict[str, InputStats] = {}
        for part in walk.collect(index, block, sites, stats, self.method.needs_gram):
            yield clock.progress("measure", part * 0.4)
        reports = []
        for n, name in enumerate(sites, start=1):
            reports.append(self._site(name, stats))
            yield clock.progress("compress", 0.4 + 0.2 * n / len(sites))
        del stats, sites
        for part in walk.propagate(index, block):
            yield clock.progress("propagate", 0.6 + part * 0.4)
        self._write(index, block)
        self._release(index)
        return reports

    def note(self, index: int, layers: list[LayerReport], seconds: float) -> None:
        self.stage.write_checkpoint(Checkpoint(index + 1, self.walk.hidden, layers, seconds))

    def write_outside(self) -> None:
        """Copy what is left alone, a file at a time."""
        for number, layout in enumerate(self.draft.outside):
            tensors = self.weights.read(layout, self.draft.dtype)
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

    def _fill(self, index: int) -> None:
        name = self.draft.anatomy.block_name(index)
        fill(self.draft.model.get_submodule(name), name, self.weights, self.draft.dtype, self.draft.device)

    def _release(self, index: int) -> None:
        self.draft.model.get_submodule(self.draft.anatomy.block_name(index)).to("meta")

    def _runs_before(self, name: str) -> bool:
        """Whether a tensor outside the blocks may be wanted before them: all but the output head's own."""
        head = self.draft.model.get_output_embeddings()
        owner = self.draft.model.get_submodule(name.rpartition(".")[0])
        return owner is not head or owner is self.draft.model.get_input_embeddings()

    def _assign(self, names: list[str]) -> None:
        tensors = self.weights.read(names, self.draft.dtype)
        for name, tensor in tensors.items():
            self._set(name, tensor.to(self.draft.device))
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.numel() < 2**24):
            raise DamagedError(
                "The weights outside the blocks hold numbers that are not finite.", "Download them again."
            )

    def _forget(self, names: list[str]) -> None:
        for name in names:
            self._set(name, torch.empty_like(self.draft.model.get_parameter(name), device="meta"))

    def _set(self, name: str, tensor: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.draft.model.get_submodule(owner)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[leaf] = tensor
