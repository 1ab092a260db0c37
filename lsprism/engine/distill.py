"""Healing: distills the dense model's next-token distribution into the whole compressed model, with fixed masks.

Loss: KL(p || p') per token, p the dense model's distribution. The dense model itself is not in memory: its logits are
computed from its stored hidden states after the last block, by the norm and head that both models share. Gradient
checkpointing keeps the activations of one block in memory at a time.
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
from lsprism.calibration.blockwise import LEARNING_TOKENS, BlockwiseForward
from lsprism.engine.blocks import BlockLoader
from lsprism.engine.finetune import Adam, make_trainable
from lsprism.models.module_utils import bias_of, replace_module, set_tensor
from lsprism.models.structure import get_tied_names
from lsprism.models.weights import move_buffers
from lsprism.packed.compute import convert_products
from lsprism.packed.modules import PrismLinear, make_meta_packed
from lsprism.records.model_plan import LayerPlan

RATE = 5e-4  # see learning.Adam


class Distillation:
    """The whole compressed model on the device, and the dense model's last hidden states [samples, length, width]."""

    def __init__(self, feed: BlockLoader, stage: Staging, walk: BlockwiseForward, tokens: Tensor) -> None:
        self.model = feed.draft.model
        self.device = feed.draft.device
        self.extras = walk.extras
        self.compute = walk.compute
        load_compressed_model(feed, stage)
        blocks = self.model.get_submodule(feed.draft.anatomy.blocks)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks
        self.tokens = tokens
        self.dense = torch.cat(walk.dense)
        self.windows = max(1, LEARNING_TOKENS // tokens.shape[1])  # per step

    def run_trial_step(self) -> None:
        """Do the work of one step without changing any value, to time it."""
        with self._enable_training() as values:
            self._run_step(Adam(values, rate=0, steps=1), list(range(min(self.windows, len(self.tokens)))))

    def train(self, steps: int, seed: int) -> Iterator[float]:
        """Train for `steps` steps and yield the fraction done after each. Deterministic for a given seed."""
        order = torch.Generator().manual_seed(seed)
        queue: list[int] = []
        with self._enable_training() as values:
            adam = Adam(values, RATE, steps)
            for step in range(1, steps + 1):
                if len(queue) < self.windows:
                    queue += torch.randperm(len(self.tokens), generator=order).tolist()
                picked = queue[: self.windows]
                queue = queue[self.windows :]
                self._run_step(adam, picked)
                yield step / steps

    @contextmanager
    def _enable_training(self) -> Iterator[list[nn.Parameter]]:
        with (
            make_trainable(self.blocks) as values,
            replace_forward(self.blocks, partial(_make_checkpointed, self.compute)),
        ):
            yield values

    def _run_step(self, adam: Adam, windows: list[int]) -> None:
        with convert_products(self.compute):
            for window in windows:  # one at a time: logits are large
                self._add_gradient(window, share=1 / len(windows))
        adam.step()

    def _add_gradient(self, window: int, share: float) -> None:
        """Add the gradient of `share` times the loss, which is the mean over the tokens of one window."""
        tokens = self.tokens[window : window + 1].to(self.device)
        with torch.no_grad(), replace_forward(self.blocks, self._get_block_forward(window)):
            wanted = self.model(input_ids=tokens, use_cache=False).logits
        logits = self.model(input_ids=tokens, use_cache=False).logits
        logits.backward(compute_gradient(logits.detach(), wanted).mul_(share))

    def _get_block_forward(self, window: int) -> Any:
        """A forward for every block that returns the output of the dense model's last block."""
        hidden = self.dense[window : window + 1].to(self.device)
        answer = hidden if self.extras is None else (hidden, *self.extras)
        return lambda _block: lambda *_args, **_kwargs: answer


def compute_gradient(logits: Tensor, wanted: Tensor) -> Tensor:
    """Gradient of the mean KL(p || p') over tokens with respect to `logits` [..., vocabulary].

    It is p' - p per token, where p' = softmax(logits) and p = softmax(wanted). In closed form, because autograd would
    hold several more tensors of this size.
    """
    found, dense = (softmax(of, dim=-1, dtype=torch.float32) for of in (logits, wanted))
    return found.sub_(dense).div_(logits[..., 0].numel()).to(logits.dtype)


def load_compressed_model(feed: BlockLoader, stage: Staging) -> None:
    """Load all tensors into the empty model: the blocks' from the written shards, the others from the source."""
    draft = feed.draft
    model = feed.draft.model
    for plan in draft.plan.sites:
        if plan.form != "dense":
            replace_module(
                model, plan.site.name, _make_empty_module(model.get_submodule(plan.site.name), plan, model.dtype)
            )
    parts = [feed.weights.read(layout) for layout in draft.outside]
    parts += [load_file(stage.folder / draft.get_block_file(index)) for index in range(draft.anatomy.count)]
    tensors = {name: tensor.to(draft.device) for part in parts for name, tensor in part.items()}
    tensors |= {name: tensors[kept] for name, kept in get_tied_names(model).items() if kept in tensors}
    for name, tensor in tensors.items():
        set_tensor(model, name, tensor)
    move_buffers(model, draft.device)


def _make_empty_module(module: nn.Module, plan: LayerPlan, dtype: torch.dtype) -> PrismLinear:
    return PrismLinear(make_meta_packed(plan.site, plan.form, plan.budget, dtype, plan.values), bias_of(module))


@contextmanager
def replace_forward(blocks: nn.ModuleList, forward_of: Any) -> Iterator[None]:
    """Replace every block's forward by forward_of(block) inside the `with`."""
    with ExitStack() as undo:
        for block in blocks:
            before = block.__dict__.get("forward")
            block.forward = forward_of(block)
            undo.callback(_restore_forward, block, before)
        yield


def _restore_forward(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def _make_checkpointed(compute: torch.dtype | None, block: nn.Module) -> Any:
    forward = block.forward

    def run(*args: Any, **settings: Any) -> Any:
        with convert_products(compute):  # the recomputation in the backward pass runs outside the caller's `with`
            return forward(*args, **settings)

    return partial(checkpoint, run, use_reentrant=False)
