"""Calibration statistics of the inputs X [tokens, columns] of one layer: sums and a small sample."""

from functools import cached_property

import torch
from torch import Tensor

from lsprism.methods.gram import GramFactor, factorize_gram

PART = 1024  # tokens converted to float32 at once
# Tokens whose squared norm exceeds this many times the batch's median are outliers: that of a text's first token can be
# ten thousand times the median.
OUTLIER = 10
SAMPLE_TOKENS = 256  # input tokens to keep, for the relative output error


class InputStats:
    """Running sums over the input tokens of one layer, in float32 on the device of the inputs.

    squares: [columns] sum of x_j^2, accumulated in float64.
    gram: [columns, columns] X^T X; only if the method needs it, and until `metric` is computed from it.
    drift: [columns, columns] (X0 - X)^T X, with X0 the inputs in the dense model; only after `add_paired`, and until
        `release_drift`.
    sample: [<= SAMPLE_TOKENS, columns] tokens spread over the calibration data, in their own dtype.
    """

    def __init__(self, columns: int, *, gram: bool, batches: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.squares = torch.zeros(columns, dtype=torch.float64, device=device)
        self.gram = torch.zeros(columns, columns, dtype=torch.float32, device=device) if gram else None
        self.drift: Tensor | None = None
        self._picks: list[Tensor] = []
        self._picks_per_batch = -(-SAMPLE_TOKENS // max(batches, 1))

    def add(self, x: Tensor) -> None:
        """Add one batch of inputs, x [..., columns]."""
        x = x.detach().reshape(-1, x.shape[-1])
        self.tokens += x.shape[0]
        # The sample: evenly spaced tokens of every batch.
        stride = max(1, x.shape[0] // self._picks_per_batch)
        self._picks.append(x[::stride][: self._picks_per_batch].clone())
        for part in x.split(PART):
            exact = part.float()
            if self.gram is None:
                self.squares += torch.linalg.vector_norm(exact, dim=0).double().square()
            else:
                self.gram.addmm_(exact.T, exact)
        if self.gram is not None:
            self.squares.copy_(self.gram.diagonal())

    def add_paired(self, x: Tensor, dense: Tensor) -> None:
        """Add one batch of inputs, x [..., columns], paired with those of the same layer in the dense model.

        Outlier tokens are excluded from the drift, because a single one would outweigh all others.
        """
        self.add(x)
        ours, theirs = (of.detach().reshape(-1, of.shape[-1]).split(PART) for of in (x, dense))
        energies = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float32).square() for part in theirs]
        limit = OUTLIER * torch.cat(energies).median()
        if self.drift is None:
            self.drift = torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float32, device=x.device)
        for part, beside, energy in zip(ours, theirs, energies, strict=True):
            exact = part.float()
            lost = beside.to(torch.float32, copy=True).sub_(exact).mul_((energy <= limit).unsqueeze(1))
            self.drift.addmm_(lost.T, exact)

    @cached_property
    def metric(self) -> GramFactor:
        """The factorized Gram matrix of all inputs. Computed once, in the memory of `gram`, which becomes None."""
        assert self.gram is not None, "statistics were collected without a Gram matrix"
        gram, self.gram = self.gram, None
        return factorize_gram(gram, in_place=True)

    def release_drift(self) -> None:
        self.drift = None

    @property
    def sample(self) -> Tensor:
        return torch.cat(self._picks)[:SAMPLE_TOKENS]

    @property
    def norms(self) -> Tensor:
        """[columns] ||X_j||_2, float32."""
        return self.squares.sqrt().float()


def compute_output_error(weight: Tensor, compressed: Tensor, sample: Tensor) -> float:
    """||X (W - W')^T||_F / ||X W^T||_F for the tokens in `sample` [tokens, columns]; 0 if X W^T is 0."""
    x = sample.float()
    wanted = x @ weight.float().T
    norm = torch.linalg.vector_norm(wanted)
    lost = wanted.addmm_(x, compressed.float().T, alpha=-1)
    return (torch.linalg.vector_norm(lost) / norm).item() if norm > 0 else 0.0
