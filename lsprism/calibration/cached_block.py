"""Cache of the outputs of a block's finished submodules, between passes over the same batches."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor, nn


class CachedBlock:
    """A block whose submodules run once per batch as soon as their weights do not change any more.

    A submodule is finished when all its layers are. Every layer that still changes must run after it, so that its input
    does not change either; this holds if layers are compressed in the order of execution. A submodule that is called
    twice in a forward, or returns other values than tensors, runs each time. Outputs are kept in host memory; those
    larger than the hidden states only with `keep_large`.
    """

    def __init__(self, block: nn.Module, *, keep_large: bool = False) -> None:
        self.block = block
        self.keep_large = keep_large
        self._answers: dict[tuple[str, int], Any] = {}
        self._parts: dict[str, nn.Module] = {}
        self._called: set[str] = set()
        self._batch = 0
        self._most = 0

    def mark_done(self, done: Collection[str], sites: Collection[str]) -> None:
        """Cache the submodules whose layers are all in `done`. `sites`: names of all layers within the block."""
        for name, module in self.block.named_modules():
            inside = {site for site in sites if site.startswith(f"{name}.")}
            covered = any(name.startswith(f"{part}.") for part in self._parts)
            if name and name not in self._parts and not covered and inside and inside <= set(done):
                self._parts[name] = module
                module.forward = partial(self._get_output, name, module.forward)

    def run(self, run: Callable[[nn.Module, Tensor], Tensor], batch: int, hidden: Tensor) -> Tensor:
        """The block's output for `hidden`, the hidden states of batch number `batch`, computed by `run`."""
        self._batch = batch
        self._most = hidden.numel()
        self._called.clear()
        return run(self.block, hidden)

    def reset(self) -> None:
        """Drop all cached outputs and restore the block's own forwards."""
        for module in self._parts.values():
            del module.forward
        self._parts.clear()
        self._answers.clear()

    def _get_output(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        again = name in self._called
        key = (name, self._batch)
        self._called.add(name)
        if not again and key in self._answers:
            device, kept = self._answers[key]
            return _map_tensors(
                kept, lambda tensor: tensor.to(device, copy=True)
            )  # the next module may modify it in place
        answer = forward(*args, **kwargs)
        if again:
            self._answers.pop(key, None)
        elif (tensors := _list_tensors(answer)) and (self.keep_large or sum(t.numel() for t in tensors) <= self._most):
            self._answers[key] = tensors[0].device, _map_tensors(answer, lambda tensor: tensor.to("cpu", copy=True))
        return answer


def _list_tensors(answer: Any) -> list[Tensor]:
    """The tensors of an output that is a tensor, or a tuple or list of tensors and None; empty for anything else."""
    items = answer if type(answer) in (tuple, list) else [answer]
    known = all(item is None or isinstance(item, Tensor) for item in items)
    return [item for item in items if item is not None] if known else []


def _map_tensors(answer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(answer, Tensor):
        return change(answer)
    return type(answer)(None if item is None else change(item) for item in answer)
