"""Block-wise reconstruction: train all kept values of one compressed block together, with fixed masks.

The target is the dense model's output at the same depth. So training also compensates what layer-wise compression
cannot see: the non-linearities between layers, the errors of the block's other layers, and those of earlier blocks.
(Block reconstruction; "transformer matching" in 3BASiL: Makni, Behdin, Mazumder, 2025.)

Loss: mean over tokens of ||y - y'||^2 / ||y||^2, because the next block normalizes its inputs per token. One batch is
held out for validation: the values with its lowest loss are kept, and training stops early when it no longer improves.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lsprism.calibration.blockwise import BlockCall, BlockwiseForward
from lsprism.engine.finetune import Adam, make_trainable

# See learning.Adam. Validation loss after 300 steps, first three blocks of the demo model at sparsity 0.5: 0.0054,
# 0.0070, 0.0103 with 6e-3; 0.0057, 0.0071, 0.0106 with 3e-3; 0.0078, 0.0080, 0.0111 before training.
RATE = 6e-3
VALIDATIONS = 8  # evaluations of the validation batch per training
PATIENCE = 5  # consecutive evaluations without improvement before training stops
TINY = 1e-30


class BlockReconstruction:
    """One block with its inputs and its target outputs, both [samples, length, width] per batch."""

    def __init__(self, block: nn.Module, walk: BlockwiseForward, index: int) -> None:
        self.block = block
        self.device = walk.device
        self.batches = list(zip(walk.hidden, walk.calls[index], walk.dense, strict=True))

    def compute_loss(self, hidden: Tensor, call: BlockCall, wanted: Tensor) -> Tensor:
        answer = call.run(self.block, hidden.to(self.device, copy=True)).float()
        wanted = wanted.to(self.device).float()
        lost = (answer - wanted).square().sum(-1)
        return (lost / wanted.square().sum(-1).clamp_min(TINY)).mean()

    def run_trial_step(self) -> None:
        """Do the work of one step without changing any value, to time it."""
        with make_trainable(self.block) as values:
            self._run_step(Adam(values, rate=0, steps=1), 0)

    def train(self, steps: int, seed: int) -> Iterator[float]:
        """Train for at most `steps` steps and yield the fraction done after each. Deterministic for a given seed."""
        watched = len(self.batches) - 1
        others = max(1, len(self.batches) - 1)
        order = torch.Generator().manual_seed(seed)
        queue: list[int] = []
        with make_trainable(self.block) as values:
            adam = Adam(values, RATE, steps)
            best = _BestWeights(values, self._measure_loss(watched))
            for step in range(1, steps + 1):
                queue = queue or torch.randperm(others, generator=order).tolist()
                self._run_step(adam, queue.pop())
                yield step / steps
                if step % max(1, steps // VALIDATIONS) == 0 or step == steps:
                    best.update(self._measure_loss(watched))
                    if best.missed == PATIENCE:
                        break
            best.restore()

    def _run_step(self, adam: Adam, number: int) -> None:
        self.compute_loss(*self.batches[number]).backward()
        adam.step()

    @torch.no_grad()
    def _measure_loss(self, number: int) -> float:
        return self.compute_loss(*self.batches[number]).item()


class _BestWeights:
    """The values with the lowest validation loss so far."""

    def __init__(self, values: list[nn.Parameter], loss: float) -> None:
        self.values = values
        self.loss = loss
        self.missed = 0
        self.kept = [value.detach().clone() for value in values]

    @torch.no_grad()
    def update(self, loss: float) -> None:
        if not loss < self.loss:  # also true for NaN
            self.missed += 1
            return
        self.loss = loss
        self.missed = 0
        for kept, value in zip(self.kept, self.values, strict=True):
            kept.copy_(value)

    @torch.no_grad()
    def restore(self) -> None:
        for kept, value in zip(self.kept, self.values, strict=True):
            value.copy_(kept)
