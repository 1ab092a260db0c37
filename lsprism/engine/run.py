"""Runs a plan block by block. Yields events and ends with the report; closing the iterator stops it."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from lsprism.artifact.publish import write_artifact
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.shards import is_whole, write_shard
from lsprism.artifact.staging import Checkpoint, Staging, open_staging
from lsprism.artifact.target import load_finished_report, restore_steps
from lsprism.calibration.blockwise import BATCH_TOKENS, LEARNING_TOKENS, BlockwiseForward
from lsprism.calibration.cached_block import CachedBlock
from lsprism.engine.block_compression import BlockCompression
from lsprism.engine.block_progress import RECONSTRUCT_WEIGHT, BlockProgress
from lsprism.engine.blocks import BlockLoader
from lsprism.engine.distill import Distillation
from lsprism.engine.memory_estimate import translate_memory_errors, trim_heap
from lsprism.engine.plan import PreparedPlan
from lsprism.engine.reconstruct import BlockReconstruction
from lsprism.engine.step_budget import StepBudget
from lsprism.events import BlockClock, BlockDone, Event, Finished, Notice, Stage
from lsprism.methods import get_method
from lsprism.models.structure import get_tied_names
from lsprism.records.compression import LayerReport
from lsprism.specs import CompressSpec, PlanSpec


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a run needs.

    tokens [samples, length] come from the text named `text`. `recipe` is stored with the result. `started`: start of
    the work, by time.monotonic.
    """

    spec: CompressSpec
    draft: PreparedPlan
    tokens: Tensor
    text: str
    recipe: Recipe
    started: float


def run(prepared: PreparedRun) -> Iterator[Event]:
    """Compress the model as planned.

    An interrupted run leaves OUT.part; the same call with `spec.resume` continues from its checkpoint and produces
    the same bytes.
    """
    spec = prepared.spec
    draft = prepared.draft
    tokens = prepared.tokens
    recipe = restore_steps(spec.save_path, prepared.recipe) if spec.resume else prepared.recipe.copy()
    if spec.resume and (report := load_finished_report(spec.save_path, recipe, force=spec.force)):
        yield Notice(text=f"{spec.save_path} is already complete.")
        yield Finished(report=report)
        return
    with translate_memory_errors(), open_staging(spec.save_path, recipe, resume=spec.resume, force=spec.force) as stage:
        work = _ModelCompressor(spec, draft, stage, recipe)
        yield Stage(name="calibrate", detail=f"{tokens.shape[0]} x {tokens.shape[1]} tokens of {prepared.text}")
        work.start(tokens)
        last = yield from _load_checkpoint(stage, draft, work.walk)
        work.walk.streams = last.hidden
        layers = last.layers
        started = prepared.started - last.seconds
        count = draft.anatomy.count
        yield Stage(name="compress", detail=f"{count} blocks, {spec.method} at sparsity {spec.sparsity:g}")
        duration = draft.plan.duration
        clock = BlockClock(count, min(last.next_block, count), duration.blocks / count if duration else None)
        for index in range(clock.done, count):
            fresh = yield from work.compress_block(index, clock)
            layers = [*layers, *fresh]
            stage.write_checkpoint(Checkpoint(index + 1, work.walk.streams, layers, time.monotonic() - started))
            yield BlockDone(block=index + 1, of=count, layers=fresh, seconds=clock.next_block())
        if spec.heals and last.next_block <= count:
            if not stage.replacing:  # else the run was killed after the training
                yield from work.run_healing(tokens)
                stage.start_replacing(work.iter_shards())
            stage.apply_replacing(Checkpoint(count + 1, work.walk.streams, layers, time.monotonic() - started))
        yield Stage(name="write", detail=str(spec.save_path))
        work.write_outside()
        report = write_artifact(
            stage, draft.plan, recipe, layers, seconds=time.monotonic() - started, calibration=prepared.text
        )
        yield Finished(report=report)


def compute_batch_tokens(spec: PlanSpec) -> int:
    """Tokens per forward pass of a block. Part of the recipe: the bytes of the result depend on it."""
    return LEARNING_TOKENS if spec.reconstructs else BATCH_TOKENS


def _load_checkpoint(stage: Staging, draft: PreparedPlan, walk: BlockwiseForward) -> Generator[Event, None, Checkpoint]:
    """Return the checkpoint to resume from, or one for the start if it or one of its shards is missing or damaged."""
    start = Checkpoint(0, walk.streams, [], 0.0)
    if not stage.begun:
        return start
    checkpoint = stage.read_checkpoint()
    wrong = _check_checkpoint(checkpoint, stage, draft, walk)
    if wrong or checkpoint is None:
        stage.remove_replacing()
        yield Notice(text=f"{wrong}: starting over at the first block.")
        return start
    yield Notice(text=f"Resuming after block {checkpoint.next_block} of {draft.anatomy.count}.")
    return checkpoint


def _check_checkpoint(
    checkpoint: Checkpoint | None, stage: Staging, draft: PreparedPlan, walk: BlockwiseForward
) -> str:
    if checkpoint is None:
        return "The checkpoint cannot be read"
    if walk.stateful:
        return "Blocks of this architecture share state that a checkpoint does not store"
    files = [draft.get_block_file(index) for index in range(checkpoint.next_block)]
    broken = [
        file for file, layout in zip(files, draft.blocks, strict=False) if not is_whole(stage.folder / file, layout)
    ]
    return f"{broken[0]} is missing or damaged" if broken else ""


class _ModelCompressor:
    """Compresses the model's blocks one at a time: load, collect statistics, compress, write."""

    def __init__(self, spec: CompressSpec, draft: PreparedPlan, stage: Staging, recipe: Recipe) -> None:
        self.spec = spec
        self.draft = draft
        self.stage = stage
        self.recipe = recipe
        self.method = get_method(spec.method, spec.effort)
        self.feed = BlockLoader(draft)
        self.walk: BlockwiseForward

    def start(self, tokens: Tensor) -> None:
        self.walk = self.feed.start(tokens, compute_batch_tokens(self.spec))
        self.compensates = self.method.anchor > 0 and not self.walk.stateful
        if self.compensates or self.spec.reconstructs or self.spec.heals:
            self.walk.track_dense()

    def compress_block(self, index: int, clock: BlockClock) -> Generator[Event, None, list[LayerReport]]:
        """Compress block `index` and write its shard. Returns the reports of its layers."""
        block = CachedBlock(self.feed.load(index))
        progress = BlockProgress(clock, reconstructs=self.spec.reconstructs)
        reports = yield from self._compress_layers(index, block, progress)
        if self.spec.reconstructs:
            block.reset()  # training changes all layers again
            yield from progress.track("learn", self._reconstruct(index, block.block), weight=RECONSTRUCT_WEIGHT)
        yield from progress.track_last("propagate", self.walk.advance(index, block))
        block.reset()
        write_shard(self.stage.folder / self.draft.get_block_file(index), self._collect_tensors(index))
        self.feed.release(index)
        trim_heap()
        return reports

    def _compress_layers(
        self, index: int, block: CachedBlock, progress: BlockProgress
    ) -> Generator[Event, None, list[LayerReport]]:
        """The dense layers are in memory until this returns."""
        layers = BlockCompression(self.draft, self.walk, index, block, self.method)
        return (yield from layers.compress(progress, compensates=self.compensates))

    def write_outside(self) -> None:
        """Copy the tensors that are not compressed, a file at a time."""
        for number, layout in enumerate(self.draft.outside):
            tensors = self.feed.weights.read(layout)
            write_shard(self.stage.folder / self.draft.get_group_file(number), tensors)

    def run_healing(self, tokens: Tensor) -> Iterator[Event]:
        """Distill the whole model, starting from the written shards. It is on the device afterwards."""
        yield Stage(name="heal", detail=f"all blocks at once, {tokens.shape[0]} x {tokens.shape[1]} tokens")
        healing = Distillation(self.feed, self.stage, self.walk, tokens)
        steps = StepBudget("heal", self.recipe, self.stage).resolve_steps(healing.run_trial_step)
        clock = BlockClock(steps)
        for _ in healing.train(steps, self.spec.calibration.seed):
            yield clock.make_progress("heal", 1.0)
            clock.next_block()

    def iter_shards(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield file name and tensors of every block, from the device; each block is released afterwards."""
        for index in range(self.draft.anatomy.count):
            yield self.draft.get_block_file(index), self._collect_tensors(index)
            self.feed.release(index)

    def _reconstruct(self, index: int, block: nn.Module) -> Iterator[float]:
        lesson = BlockReconstruction(block, self.walk, index)
        steps = StepBudget("reconstruct", self.recipe, self.stage).resolve_steps(
            lesson.run_trial_step, units=self.draft.anatomy.count
        )
        yield from lesson.train(steps, self.spec.calibration.seed + index)

    def _collect_tensors(self, index: int) -> dict[str, Tensor]:
        prefix = self.draft.anatomy.get_block_name(index)
        state = self.draft.model.get_submodule(prefix).state_dict(prefix=f"{prefix}.")
        tied = get_tied_names(self.draft.model)  # a tied tensor is stored once
        tensors = {name: tensor.to("cpu").contiguous() for name, tensor in state.items() if name not in tied}
        assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == self.draft.blocks[index]
        return tensors
