"""The whole compressed model learns to answer as the dense one: distillation of the logits, the places fixed.

Loss: KL(p || p') per token, p the dense model's next-token distribution. The dense model itself is not there: its
hidden states after the last block are, and its norm and head, which the compressed model shares, make logits of them.
Blocks are recomputed on the way back, so that one block's activations are held at a time.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import softmax
from torch.utils.checkpoint import checkpoint

from lsprism.artifact.staging import Staging
from lsprism.calibration.walk import LEARNING_TOKENS, Walk
from lsprism.engine.blocks import BlockFeed
from lsprism.engine.learning import Adam, learning
from lsprism.layers.compute import computing_in
from lsprism.layers.modules import PrismLinear, empty_form
from lsprism.models.anatomy import tied_names
from lsprism.models.surgery import bias_of, place, set_tensor
from lsprism.models.weights import move_computed
from lsprism.reports import SitePlan

RATE = 5e-4  # see learning.Adam


class Healing:
    """The compressed model, whole on the device, beside the dense one's last hidden states [samples, length, width]."""

    def __init__(self, feed: BlockFeed, stage: Staging, walk: Walk, tokens: Tensor) -> None:
        self.model, self.device, self.extras = feed.draft.model, feed.draft.device, walk.extras
        self.compute = walk.compute
        assemble(feed, stage)
        blocks = self.model.get_submodule(feed.draft.anatomy.blocks)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks
        self.tokens, self.dense = tokens, torch.cat(walk.dense)
        self.windows = max(1, LEARNING_TOKENS // tokens.shape[1])  # a step

    def try_one(self) -> None:
        """The work of one step; changes nothing."""
        with self._learning() as values:
            self._step(Adam(values, rate=0, steps=1), list(range(min(self.windows, len(self.tokens)))))

    def learn(self, steps: int, seed: int) -> Iterator[float]:
        """Yields the share done after each step. The same seed, the same result."""
        order = torch.Generator().manual_seed(seed)
        queue: list[int] = []
        with self._learning() as values:
            adam = Adam(values, RATE, steps)
            for step in range(1, steps + 1):
                if len(queue) < self.windows:
                    queue += torch.randperm(len(self.tokens), generator=order).tolist()
                picked, queue = queue[: self.windows], queue[self.windows :]
                self._step(adam, picked)
                yield step / steps

    @contextmanager
    def _learning(self) -> Iterator[list[nn.Parameter]]:
        with learning(self.blocks) as values, instead(self.blocks, partial(_recomputed, self.compute)):
            yield values

    def _step(self, adam: Adam, windows: list[int]) -> None:
        with computing_in(self.compute):
            for window in windows:  # one at a time: logits are large
                self._descend(window, share=1 / len(windows))
        adam.step()

    def _descend(self, window: int, share: float) -> None:
        """Add the gradient of `share` of the loss, the mean over the tokens of one window."""
        tokens = self.tokens[window : window + 1].to(self.device)
        with torch.no_grad(), instead(self.blocks, self._answers(window)):
            wanted = self.model(input_ids=tokens, use_cache=False).logits
        logits = self.model(input_ids=tokens, use_cache=False).logits
        logits.backward(gradient(logits.detach(), wanted).mul_(share))

    def _answers(self, window: int) -> Any:
        """Every block answers what the last one of the dense model did."""
        hidden = self.dense[window : window + 1].to(self.device)
        answer = hidden if self.extras is None else (hidden, *self.extras)
        return lambda _block: lambda *_args, **_kwargs: answer


def gradient(logits: Tensor, wanted: Tensor) -> Tensor:
    """Of the mean KL(p || p') over tokens, by `logits` [..., words]: p' - p, p that of the logits `wanted`.

    In closed form: autograd would hold several more tensors of as many words.
    """
    found, dense = (softmax(of, dim=-1, dtype=torch.float32) for of in (logits, wanted))
    return found.sub_(dense).div_(logits[..., 0].numel()).to(logits.dtype)


def assemble(feed: BlockFeed, stage: Staging) -> None:
    """Give the skeleton all its tensors: the blocks' from the shards that are written, the others from the source."""
    draft, model = feed.draft, feed.draft.model
    for plan in draft.plan.sites:
        if plan.form != "dense":
            place(model, plan.site.name, _empty(model.get_submodule(plan.site.name), plan, model.dtype))
    parts = [feed.weights.read(layout) for layout in draft.outside]
    parts += [load_file(stage.folder / draft.file_of_block(index)) for index in range(draft.anatomy.count)]
    tensors = {name: tensor.to(draft.device) for part in parts for name, tensor in part.items()}
    tensors |= {name: tensors[kept] for name, kept in tied_names(model).items() if kept in tensors}
    for name, tensor in tensors.items():
        set_tensor(model, name, tensor)
    move_computed(model, draft.device)


def _empty(module: nn.Module, plan: SitePlan, dtype: torch.dtype) -> PrismLinear:
    return PrismLinear(empty_form(plan.site, plan.form, plan.budget, dtype, plan.values), bias_of(module))


@contextmanager
def instead(blocks: nn.ModuleList, forward_of: Any) -> Iterator[None]:
    """While the `with` lasts, every block's forward is forward_of(block)."""
    with ExitStack() as undo:
        for block in blocks:
            before = block.__dict__.get("forward")
            block.forward = forward_of(block)
            undo.callback(_put_back, block, before)
        yield


def _put_back(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def _recomputed(compute: torch.dtype | None, block: nn.Module) -> Any:
    forward = block.forward

    def run(*args: Any, **settings: Any) -> Any:
        with computing_in(compute):  # what surrounds the first call does not surround the second
            return forward(*args, **settings)

    return partial(checkpoint, run, use_reentrant=False)
