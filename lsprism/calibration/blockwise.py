"""Block-by-block forward pass: the outputs of one block become the inputs of the next, with one block on the device.

Each block is called as a whole, with the arguments that the model itself would pass. They are captured by one forward
pass per batch in which the blocks are replaced by recorders. Hidden states are kept in host memory in the model's
dtype.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsprism.calibration.cached_block import CachedBlock
from lsprism.calibration.hooks import capture_input, make_unreached_stats, track_input_stats
from lsprism.errors import NumericError, SourceError
from lsprism.methods.stats import InputStats
from lsprism.packed.compute import convert_products

BATCH_TOKENS = 4096  # tokens per forward pass; part of the recipe, because the order of sums affects the result
LEARNING_TOKENS = 1024  # the same with reconstruction, where a batch is one step


@dataclass
class BlockCall:
    """The arguments of one block apart from the hidden states."""

    args: tuple
    kwargs: dict[str, Any]
    keyword: str | None  # keyword of the hidden states; None: first positional argument
    compute: torch.dtype | None = None  # dtype of matrix products; None: the dtype of the weights

    def compute_output(self, block: Callable[..., Any], hidden: Tensor) -> Any:
        """The block's return value: a tensor, or a tuple or list that starts with the hidden states."""
        with convert_products(self.compute):
            if self.keyword is None:
                return block(hidden, *self.args, **self.kwargs)
            return block(*self.args, **{self.keyword: hidden}, **self.kwargs)

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """hidden [batch, length, width] -> the block's output hidden states, of the same shape."""
        output = self.compute_output(block, hidden)
        return output[0] if isinstance(output, tuple | list) else output


@dataclass
class BlockwiseForward:
    """The state of a block-by-block forward pass: the inputs of the next block, per batch.

    hidden: hidden states [samples, length, width] per batch, in host memory. `advance` advances them by one block.
    calls: calls[block][batch], the other arguments of each block; dropped once the block has been passed.
    dense: hidden states of the dense model at the same depth; empty unless `track_dense` was called. `advance_dense`
    advances
        them.
    extras: what a block returns after the hidden states; None if it returns a single tensor.
    stateful: blocks pass results to later blocks through a shared mapping, so a walk cannot be resumed.
    compute: dtype of matrix products; None: the dtype of the weights.
    """

    device: torch.device
    hidden: list[Tensor] = field(default_factory=list)
    calls: list[list[BlockCall]] = field(default_factory=list)
    dense: list[Tensor] = field(default_factory=list)
    extras: tuple | None = None
    stateful: bool = False
    compute: torch.dtype | None = None

    def track_dense(self) -> None:
        """Also track the dense model from here on. Raises SourceError if its blocks share state."""
        if self.stateful:
            raise SourceError(
                "Blocks of this architecture share state; reconstruction and healing are not supported.",
                "Leave out the options of reconstruction and healing.",
            )
        self.dense = [hidden.clone() for hidden in self.hidden]

    @property
    def streams(self) -> list[Tensor]:
        """The tensors that a checkpoint must store to continue from here."""
        return [*self.hidden, *self.dense]

    @streams.setter
    def streams(self, tensors: list[Tensor]) -> None:
        count = len(self.hidden)
        self.hidden = tensors[:count]
        self.dense = tensors[count:]

    def collect_stats(
        self,
        index: int,
        block: nn.Module,
        sites: dict[str, nn.Module],
        stats: dict[str, InputStats],
        *,
        gram: bool,
        propagate: bool = False,
    ) -> Iterator[float]:
        """Collect input statistics of the layers `sites` into `stats`. Yields the fraction done after each batch.

        `propagate`: also replace the hidden states by the block's outputs; `check_finite` checks them.
        """
        with track_input_stats(sites, stats, gram=gram, batches=len(self.hidden)) as watch:
            for n, call in enumerate(self.calls[index]):
                with torch.no_grad():
                    out = call.run(block, self._on_device(self.hidden[n]))
                watch.release_inputs()
                if propagate:
                    self.hidden[n] = out.to("cpu")
                yield (n + 1) / len(self.hidden)
        if propagate:
            self.calls[index] = []
        for name in sites.keys() - stats.keys():
            stats[name] = make_unreached_stats(sites[name], gram=gram)

    def check_finite(self, index: int) -> None:
        """Raise NumericError if the output of block `index` contains NaN or Inf."""
        for hidden in self.hidden:
            _check_finite(index, hidden)

    def find_shared_inputs(self, index: int, block: nn.Module, names: dict[str, nn.Module]) -> list[list[str]]:
        """Layers that see every token, grouped by shared input, in the order of execution.

        Found by a pass over the first batch. Experts, which see only some tokens, are not included.
        """
        hidden = self.hidden[0]
        stats: dict[str, InputStats] = {}
        with torch.no_grad(), track_input_stats(names, stats, gram=False, batches=1):
            self.calls[index][0].run(block, self._on_device(hidden))
        found: dict[int, list[str]] = {}
        for name, seen in stats.items():
            if seen.tokens == hidden.shape[0] * hidden.shape[1]:
                found.setdefault(id(seen), []).append(name)
        return list(found.values())

    def collect_paired_stats(
        self, index: int, blocks: tuple[CachedBlock, CachedBlock], name: str, stats: InputStats, *, teach: bool
    ) -> Iterator[float]:
        """Collect paired inputs of the layer `name` into `stats`: in the compressed block and in the dense block.

        `blocks`: the compressed and the dense block. Both run up to that layer; with `teach` the dense one runs to its
        end and advances `dense`, which saves a separate pass. Yields the fraction done after each batch.
        """
        block, dense = (recall.block.get_submodule(name) for recall in blocks)
        for n, call in enumerate(self.calls[index]):
            with torch.no_grad():
                x, _ = capture_input(block, partial(blocks[0].run, call.run, n, self._on_device(self.hidden[n])))
                forward = partial(blocks[1].run, call.run, n, self._on_device(self.dense[n]))
                beside, out = capture_input(dense, forward, go_on=teach)
            stats.add_paired(x, beside)
            if teach and out is not None:
                self.dense[n] = _check_finite(index, out.to("cpu"))
            yield (n + 1) / len(self.calls[index])

    def advance_dense(self, index: int, block: nn.Module | CachedBlock) -> Iterator[float]:
        """Replace `dense` by the outputs of the dense block. Yields the fraction done after each batch."""
        yield from self._advance_stream(index, block, self.dense)

    def advance(self, index: int, block: nn.Module | CachedBlock) -> Iterator[float]:
        """Last pass: replace the hidden states by the block's outputs. Yields the fraction done after each batch."""
        yield from self._advance_stream(index, block, self.hidden)
        self.calls[index] = []

    def _advance_stream(self, index: int, block: nn.Module | CachedBlock, stream: list[Tensor]) -> Iterator[float]:
        recall = block if isinstance(block, CachedBlock) else CachedBlock(block)
        for n, call in enumerate(self.calls[index]):
            with torch.no_grad():
                out = recall.run(call.run, n, self._on_device(stream[n])).to("cpu")
            stream[n] = _check_finite(index, out)
            yield (n + 1) / len(stream)

    def _on_device(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.device, copy=True)  # a block may modify it in place


def _check_finite(index: int, out: Tensor) -> Tensor:
    """Return `out` of block `index`; raises NumericError if it contains NaN or Inf."""
    if not torch.isfinite(out).all():
        raise NumericError(
            f"Block {index} produced NaN or Inf.",
            "Choose --dtype float32 or bfloat16, or another calibration text.",
        )
    return out


def capture_block_inputs(
    model: PreTrainedModel,
    blocks: nn.ModuleList,
    tokens: Tensor,
    device: torch.device,
    batch_tokens: int = 0,
    compute: torch.dtype | None = None,
) -> BlockwiseForward:
    """Run the model's own forward over tokens [samples, length] and record the arguments of each block.

    `batch_tokens`: tokens per forward pass; 0: BATCH_TOKENS. `compute`: see Walk.

    The first block, and all modules that run before the blocks, must have their weights loaded. The first block runs
    once, to find out whether blocks return a tensor or a tuple. Raises SourceError for a model that does more between
    its blocks than pass the hidden states on.
    """
    notes = _CaptureBlockInputs(model, blocks, BlockwiseForward(device, calls=[[] for _ in blocks], compute=compute))
    with notes.replace_blocks():
        for part in tokens.split(max(1, (batch_tokens or BATCH_TOKENS) // tokens.shape[1])):
            notes.start_batch()
            with torch.no_grad(), suppress(_StopForward), convert_products(compute):
                model.base_model(input_ids=part.to(device), use_cache=False)
            if notes.seen != len(blocks):
                raise notes.make_error(f"runs only {notes.seen} of its {len(blocks)} blocks")
    notes.walk.extras = notes.extras
    return notes.walk


class _StopForward(Exception):
    """Ends the model's forward after the last block has been recorded."""


class _CaptureBlockInputs:
    """Replaces the forward of every block: records its arguments and returns the hidden states unchanged."""

    def __init__(self, model: PreTrainedModel, blocks: nn.ModuleList, walk: BlockwiseForward) -> None:
        self.model = model
        self.blocks = blocks
        self.walk = walk
        self.extras: tuple | None = None  # see Walk.extras
        self.start_batch()

    @contextmanager
    def replace_blocks(self) -> Iterator[None]:
        try:
            for index, block in enumerate(self.blocks):
                block.forward = partial(self.capture, index)
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def start_batch(self) -> None:
        self.seen = 0  # recorded blocks
        self.hidden: Tensor | None = None  # the input of all of them
        # id of an argument -> the argument, and the tensor to keep for it: the previous batch's if equal, else itself
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def capture(self, index: int, *args: Any, **kwargs: Any) -> Any:
        keyword = None if args else "hidden_states"
        if keyword and keyword not in kwargs:
            raise self.make_error("does not pass hidden states to its blocks")
        hidden, args = (kwargs.pop(keyword), ()) if keyword else (args[0], args[1:])
        self._check(index, hidden, [*args, *kwargs.values()])
        call = self._store_call(index, BlockCall(args, kwargs, keyword, self.walk.compute))
        if index == 0:
            self.hidden = hidden
            self.walk.hidden.append(hidden.to("cpu", copy=True))
            if len(self.walk.hidden) == 1:
                answer = call.compute_output(type(self.blocks[0]).forward.__get__(self.blocks[0]), hidden.clone())
                self.extras = tuple(answer[1:]) if isinstance(answer, tuple | list) else None
        self.seen += 1
        # The first batch runs to the end, to detect a model that runs its blocks more than once.
        if self.seen == len(self.blocks) and (len(self.walk.hidden) > 1 or self.model.base_model is self.model):
            raise _StopForward
        return hidden if self.extras is None else (hidden, *self.extras)

    def make_error(self, what: str) -> SourceError:
        return SourceError(
            f"{type(self.model).__name__} {what}, so its blocks cannot be compressed one after another.",
            "Choose a model whose blocks pass on only the hidden states, such as Llama, Mistral or Qwen.",
        )

    def _check(self, index: int, hidden: Tensor, others: list[Any]) -> None:
        if index != self.seen:
            raise self.make_error(f"does not run its {len(self.blocks)} blocks once each and in order")
        if index and hidden is not self.hidden:
            raise self.make_error("changes the hidden states between its blocks")
        if any(other is extra for other in others for extra in self.extras or () if isinstance(extra, Tensor)):
            raise self.make_error("passes results of one block to another")
        # A mapping that is empty before the first block is filled by the blocks (key and value states of Gemma 4).
        self.walk.stateful |= index == 0 and any(isinstance(o, MutableMapping) and not o for o in others)

    def _store_call(self, index: int, call: BlockCall) -> BlockCall:
        """Store the call. Masks and positions are equal in all batches without padding, so they are kept once."""
        calls = self.walk.calls[index]
        if calls:
            before = calls[-1]
            call.args = tuple(self._merge_equal(old, new) for old, new in zip(before.args, call.args, strict=True))
            call.kwargs = {key: self._merge_equal(before.kwargs.get(key), new) for key, new in call.kwargs.items()}
        calls.append(call)
        return call

    def _merge_equal(self, old: Any, new: Any) -> Any:
        if isinstance(new, tuple) and isinstance(old, tuple) and len(new) == len(old):
            return tuple(self._merge_equal(*pair) for pair in zip(old, new, strict=True))
        if not isinstance(new, Tensor):
            return new
        if id(new) not in self.kept:
            equal = isinstance(old, Tensor) and old.dtype == new.dtype and torch.equal(old, new)
            self.kept[id(new)] = new, old if equal else new
        return self.kept[id(new)][1]
