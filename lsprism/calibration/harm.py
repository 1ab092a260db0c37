"""What a block's hidden states lose when one of its sites is compressed, and nothing else.

    harm = mean over tokens of ||h' - h||^2 / ||h||^2,   h, h' the hidden states behind the block

Every token counts alike, and what the block adds is seen against what flows past it, as the next block's norm sees it.
With each site compressed alone (SparseGPT, 0.5, demo model), the model's KL divergence followed the harm with a rank
correlation of 0.95, and the relative errors of the sites' own outputs with 0.49.
"""

import math

import torch
from torch import Tensor, nn

from lsprism.calibration.recall import Recall
from lsprism.calibration.walk import Walk


class Harm:
    """Of the sites of one block, by the first batch of a walk.

    Made before the walk passes the block; `expect` gives it the block's own answer, which the walk computes then.
    """

    def __init__(self, walk: Walk, index: int, block: nn.Module) -> None:
        self._call, self._hidden, self._device = walk.calls[index][0], walk.hidden[0], walk.device
        self._recall, self._stateful = Recall(block, keep_large=True), walk.stateful
        self._wanted: Tensor

    def expect(self, wanted: Tensor) -> None:
        """`wanted` [samples, length, width]: the block's hidden states with its own weights."""
        self._wanted = wanted.to(self._device)

    def of(self, site: nn.Module, weight: Tensor) -> float:
        """`weight`, of the shape and dtype of the site's own, in its place; 0 where what follows is not finite."""
        held = site.get_parameter("weight")
        own, held.data = held.data, weight
        try:
            lost = self._run().sub_(self._wanted)
        finally:
            held.data = own
        lost, whole = (torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32) for x in (lost, self._wanted))
        harm = (lost / whole.clamp_min(torch.finfo(torch.float32).tiny)).square().mean().item()
        return harm if math.isfinite(harm) else 0.0

    def finish(self, done: list[str], sites: list[str]) -> None:
        """The sites `done` change no more, and all others are reached after them: their answers are kept."""
        self._recall.finish(done, sites)

    def forget(self) -> None:
        """Drop all answers. What the block leaves for later blocks is again that of its own weights."""
        self._recall.forget()
        if self._stateful:
            self._run()

    @torch.no_grad()
    def _run(self) -> Tensor:
        return self._recall.run(self._call.run, 0, self._hidden.to(self._device, copy=True))
