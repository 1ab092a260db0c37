"""What a block's finished parts answered, kept from pass to pass over the same batches."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor, nn


class Recall:
    """A block whose parts are run once for each batch, as soon as their weights change no more.

    A part is a submodule whose sites are all finished. Every site that still changes must be reached after it, which is
    so where sites are compressed in the order in which they are reached; then its input does not change either. A part
    that is called twice in a forward, or answers with more than the hidden states, is run each time. Answers wait in
    host memory; those larger than the hidden states are kept only if `keep_large`.
    """

    def __init__(self, block: nn.Module, *, keep_large: bool = False) -> None:
        self.block = block
        self.keep_large = keep_large
        self._answers: dict[tuple[str, int], Any] = {}
        self._parts: dict[str, nn.Module] = {}
        self._called: set[str] = set()
        self._batch, self._most = 0, 0

    def finish(self, done: Collection[str], sites: Collection[str]) -> None:
        """`sites`: names of all sites, within the block; those of `done` change no more."""
        for name, module in self.block.named_modules():
            inside = {site for site in sites if site.startswith(f"{name}.")}
            covered = any(name.startswith(f"{part}.") for part in self._parts)
            if name and name not in self._parts and not covered and inside and inside <= set(done):
                self._parts[name] = module
                module.forward = partial(self._answer, name, module.forward)

    def run(self, run: Callable[[nn.Module, Tensor], Tensor], batch: int, hidden: Tensor) -> Tensor:
        """The block's hidden states for those of batch number `batch`, computed by `run`."""
        self._batch, self._most = batch, hidden.numel()
        self._called.clear()
        return run(self.block, hidden)

    def forget(self) -> None:
        """Let go of all answers; the block is itself again."""
        for module in self._parts.values():
            del module.forward
        self._parts.clear()
        self._answers.clear()

    def _answer(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        again, key = name in self._called, (name, self._batch)
        self._called.add(name)
        if not again and key in self._answers:
            device, kept = self._answers[key]
            return _each(kept, lambda tensor: tensor.to(device, copy=True))  # what follows may work in place
        answer = forward(*args, **kwargs)
        if again:
            self._answers.pop(key, None)
        elif (tensors := _tensors(answer)) and (self.keep_large or sum(t.numel() for t in tensors) <= self._most):
            self._answers[key] = tensors[0].device, _each(answer, lambda tensor: tensor.to("cpu", copy=True))
        return answer


def _tensors(answer: Any) -> list[Tensor]:
    """Those of an answer that is a tensor, or a tuple or list of tensors and None; none of any other."""
    items = answer if type(answer) in (tuple, list) else [answer]
    known = all(item is None or isinstance(item, Tensor) for item in items)
    return [item for item in items if item is not None] if known else []


def _each(answer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(answer, Tensor):
        return change(answer)
    return type(answer)(None if item is None else change(item) for item in answer)
