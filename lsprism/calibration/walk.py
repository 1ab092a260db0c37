"""Block after block: the outputs of one block become the inputs of the next, and only one block is on the device.

Each block is called whole, with the arguments that the model itself would hand to it: they are captured by letting the
model run once over every batch with blocks that only take notes. Hidden states wait in host memory, in the model's own
dtype.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsprism.calibration.watch import watching
from lsprism.errors import NumericError
from lsprism.methods.stats import InputStats

BATCH_TOKENS = 4096  # tokens per forward pass; part of the recipe, since sums depend on their order


@dataclass
class Call:
    """What the model hands to one block beside the hidden states."""

    args: tuple
    kwargs: dict[str, Any]
    keyword: str | None  # name under which the hidden states are passed; None: first positional argument

    def answer(self, block: Callable[..., Any], hidden: Tensor) -> Any:
        """Whatever the block returns: a tensor, or a tuple with the hidden states first."""
        if self.keyword is None:
            return block(hidden, *self.args, **self.kwargs)
        return block(*self.args, **{self.keyword: hidden}, **self.kwargs)

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """hidden [batch, length, width] -> the block's hidden states of the same shape."""
        output = self.answer(block, hidden)
        return output[0] if isinstance(output, tuple) else output


class _AllCaptured(Exception):
    """Ends the model's forward once the last block has taken its notes."""


@dataclass
class Walk:
    """hidden[batch] [samples, length, width]; calls[block][batch]."""

    device: torch.device
    hidden: list[Tensor] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)

    def collect(
        self, index: int, block: nn.Module, sites: dict[str, nn.Module], stats: dict[str, InputStats], gram: bool
    ) -> Iterator[float]:
        """First pass: fill `stats` with what flows into the sites. Yields the share done after each batch."""
        with watching(sites, stats, gram=gram, batches=len(self.hidden)) as watch:
            for n, (hidden, call) in enumerate(zip(self.hidden, self.calls[index], strict=True), start=1):
                with torch.no_grad():
                    call.run(block, hidden.to(self.device))
                watch.forget_inputs()
                yield n / len(self.hidden)

    def propagate(self, index: int, block: nn.Module) -> Iterator[float]:
        """Second pass: replace the hidden states by the block's outputs. Yields the share done after each batch."""
        for n, call in enumerate(self.calls[index]):
            with torch.no_grad():
                out = call.run(block, self.hidden[n].to(self.device)).to("cpu")
            if not torch.isfinite(out).all():
                raise NumericError(
                    f"Block {index} puts out numbers that are not finite.",
                    "Choose --dtype float32 or bfloat16, or another calibration text.",
                )
            self.hidden[n] = out
            yield (n + 1) / len(self.hidden)
        self.calls[index] = []  # its masks and embeddings are not needed again


def capture(model: PreTrainedModel, blocks: nn.ModuleList, tokens: Tensor, device: torch.device) -> Walk:
    """Run the model's own forward up to its blocks over tokens [samples, length] and note what each block is handed.

    Everything outside the blocks that runs before them, and the first block, must hold their weights; the first block
    is run once, to learn whether blocks answer with a tensor or a tuple.
    """
    walk = Walk(device, calls=[[] for _ in blocks])
    template: list[Any] = []

    def note(index: int, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        kwargs = dict(kwargs)
        keyword = None if args else "hidden_states"
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        call = Call(args, kwargs, keyword)
        walk.calls[index].append(call)
        if index == 0:
            walk.hidden.append(hidden.to("cpu"))
        if not template:
            original = type(block).forward.__get__(block)
            template.append(call.answer(original, hidden))
        if index == len(blocks) - 1:
            raise _AllCaptured
        return (hidden, *template[0][1:]) if isinstance(template[0], tuple) else hidden

    try:
        for index, block in enumerate(blocks):
            block.forward = lambda *args, index=index, block=block, **kwargs: note(index, block, args, kwargs)
        batch = max(1, BATCH_TOKENS // tokens.shape[1])
        for part in tokens.split(batch):
            with torch.no_grad(), suppress(_AllCaptured):
                model.base_model(input_ids=part.to(device), use_cache=False)
    finally:
        for block in blocks:
            del block.forward
    return walk
