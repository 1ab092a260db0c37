"""A compressed block learns to answer as it did before: Adam over all that its layers keep, at once, the places fixed.

What single layers cannot see is made up for here: the non-linearity between them, each other's errors, and those of
the blocks before, for the answer that is wanted is the one that the dense model gives at this depth. (Block
reconstruction; "transformer matching" in 3BASiL: Makni, Behdin, Mazumder, 2025.)

Loss: mean over tokens of ||y - y'||^2 / ||y||^2, for the next block sees its inputs normalised, token by token. One
batch is not learnt from but watched: the values that served it best are kept, and once it gains no more the block is
done.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lsprism.calibration.walk import Call, Walk
from lsprism.engine.learning import Adam, learning

# See learning.Adam. Loss of the watched batch after 300 steps, first three blocks of the demo model at 0.5: 0.0054,
# 0.0070, 0.0103 with 6e-3; 0.0057, 0.0071, 0.0106 with 3e-3; 0.0078, 0.0080, 0.0111 before.
RATE = 6e-3
LOOKS, PATIENCE = 8, 5  # how often the watched batch is looked at, and how often in a row it may gain nothing
TINY = 1e-30


class Lesson:
    """One block, what goes into it, and what should come out: wanted[batch] [samples, length, width]."""

    def __init__(self, block: nn.Module, walk: Walk, index: int) -> None:
        self.block, self.device = block, walk.device
        self.batches = list(zip(walk.hidden, walk.calls[index], walk.dense, strict=True))

    def loss(self, hidden: Tensor, call: Call, wanted: Tensor) -> Tensor:
        answer = call.run(self.block, hidden.to(self.device, copy=True)).float()
        wanted = wanted.to(self.device).float()
        lost = (answer - wanted).square().sum(-1)
        return (lost / wanted.square().sum(-1).clamp_min(TINY)).mean()

    def try_one(self) -> None:
        """The work of one step; changes nothing."""
        with learning(self.block) as values:
            self._step(Adam(values, rate=0, steps=1), 0)

    def learn(self, steps: int, seed: int) -> Iterator[float]:
        """Yields the share done after each step. The same seed, the same result."""
        watched, others = len(self.batches) - 1, max(1, len(self.batches) - 1)
        order = torch.Generator().manual_seed(seed)
        queue: list[int] = []
        with learning(self.block) as values:
            adam, best = Adam(values, RATE, steps), _Best(values, self._value(watched))
            for step in range(1, steps + 1):
                queue = queue or torch.randperm(others, generator=order).tolist()
                self._step(adam, queue.pop())
                yield step / steps
                if step % max(1, steps // LOOKS) == 0 or step == steps:
                    best.look(self._value(watched))
                    if best.missed == PATIENCE:
                        break
            best.restore()

    def _step(self, adam: Adam, number: int) -> None:
        self.loss(*self.batches[number]).backward()
        adam.step()

    @torch.no_grad()
    def _value(self, number: int) -> float:
        return self.loss(*self.batches[number]).item()


class _Best:
    """The values that served best so far."""

    def __init__(self, values: list[nn.Parameter], loss: float) -> None:
        self.values, self.loss, self.missed = values, loss, 0
        self.kept = [value.detach().clone() for value in values]

    @torch.no_grad()
    def look(self, loss: float) -> None:
        if not loss < self.loss:  # nor is what is not a number
            self.missed += 1
            return
        self.loss, self.missed = loss, 0
        for kept, value in zip(self.kept, self.values, strict=True):
            kept.copy_(value)

    @torch.no_grad()
    def restore(self) -> None:
        for kept, value in zip(self.kept, self.values, strict=True):
            value.copy_(kept)
