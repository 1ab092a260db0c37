"""Training of compressed layers: kept values become float32 parameters for a while, masks and ranks stay fixed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lsprism.models.module_utils import replace_module
from lsprism.packed.formats import Dense, LowRank, PackedWeight, Sparse, SparseLowRank, get_value_type, unpack_mask
from lsprism.packed.int8 import to_int8
from lsprism.packed.modules import PrismLinear


class TrainableLayer(nn.Module):
    """y = (S + L) x + bias in the dtype of x; S [rows, columns] is zero outside its mask and stays so."""

    def __init__(self, form: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        sparse, factors = _split_packed(form)
        self.dtype = form.dtype
        self.values = get_value_type(form)
        self.bias = bias
        self.places: Tensor | None = None
        self.sparse: nn.Parameter | None = None
        self.left: nn.Parameter | None = None
        self.right: nn.Parameter | None = None
        if sparse is not None:
            self.places = unpack_mask(sparse.bitmap, sparse.columns)
            self.sparse = nn.Parameter(sparse.to_dense().float())
            self.sparse.register_hook(lambda gradient: gradient.mul_(self.places))
        if factors is not None:
            self.left, self.right = (nn.Parameter(factor.float()) for factor in factors.get_factors())

    @property
    def weight(self) -> Tensor:
        """float32 [rows, columns]."""
        if self.left is None or self.right is None:
            assert self.sparse is not None
            return self.sparse
        return self.left @ self.right if self.sparse is None else torch.addmm(self.sparse, self.left, self.right)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

    @torch.no_grad()
    def to_packed(self) -> PackedWeight:
        """Pack the trained values into the original format and dtype."""
        left = self.left
        right = self.right
        numbers = self.sparse
        places = self.places
        factors = None if left is None or right is None else LowRank(left.to(self.dtype), right.to(self.dtype))
        sparse = None if numbers is None or places is None else Sparse.pack(numbers.to(self.dtype), places)
        learnt = SparseLowRank(sparse, factors) if sparse and factors else sparse or factors
        assert learnt is not None
        return to_int8(learnt) if self.values == "int8" else learnt


def _split_packed(form: PackedWeight) -> tuple[Sparse | None, LowRank | None]:
    match form:
        case Sparse():
            return form, None
        case LowRank():
            return None, form
        case SparseLowRank():
            return form.sparse, form.low_rank
        case Dense():
            return None, None


@contextmanager
def make_trainable(root: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Replace the compressed layers below `root` by trainable ones inside the `with`; pack the result afterwards.

    Yields the trainable parameters.
    """
    layers = {name: part for name, part in root.named_modules() if isinstance(part, PrismLinear)}
    learners = {n: TrainableLayer(part.form, part.bias) for n, part in layers.items() if part.form_name != "dense"}
    for name, learner in learners.items():
        replace_module(root, name, learner)
    try:
        yield [value for learner in learners.values() for value in learner.parameters() if value.requires_grad]
    finally:
        for name, learner in learners.items():
            replace_module(root, name, PrismLinear(learner.to_packed(), learner.bias))


class Adam:
    """Adam with linear warmup over the first tenth of the steps, then cosine decay to zero.

    `rate` is relative to the root mean square of a tensor's values, because models differ tenfold in their scale.
    """

    def __init__(self, values: list[nn.Parameter], rate: float, steps: int) -> None:
        self.rate = rate
        self.steps = steps
        self.done = 0
        self.inner = torch.optim.Adam(
            [{"params": [value], "size": _compute_rms(value)} for value in values], fused=True
        )

    def step(self) -> None:
        """Update the values and clear the gradients."""
        rate = self.rate * compute_rate_factor(self.done, self.steps)
        for group in self.inner.param_groups:
            group["lr"] = rate * group["size"]
        self.inner.step()
        self.inner.zero_grad()
        self.done += 1


def _compute_rms(values: Tensor) -> float:
    """Root mean square of the non-zero values."""
    count = torch.count_nonzero(values).clamp_min(1)
    return (values.detach().norm() / count.sqrt()).item()


def compute_rate_factor(step: int, steps: int) -> float:
    """The fraction of the learning rate at `step`, counted from 0: in (0, 1]."""
    rising = max(1, steps // 10)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
