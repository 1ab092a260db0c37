"""What calibration leaves behind of the inputs X [tokens, columns] of one layer: sums, never the inputs themselves."""

from functools import cached_property

import torch
from torch import Tensor

from lsprism.methods.metric import Metric, metric_of

PART = 1024  # tokens that are held in float32 at once
OUTLIER = 10  # times the median energy of a batch; the first token of a text may have ten thousand times
SAMPLE_TOKENS = 256  # tokens kept as they are, to measure the relative output error of any method alike


class InputStats:
    """Running sums over the tokens that reached one layer; float32 on the device of the inputs.

    squares: [columns] sum of x_j^2, accumulated in float64.
    gram: [columns, columns] X^T X, only where the method asks for it, and until the metric has been made of it.
    drift: [columns, columns] (X0 - X)^T X, with X0 what the dense model's layer met; only where that is added too, and
    until it is forgotten.
    sample: [<= SAMPLE_TOKENS, columns] tokens spread over the calibration, in their own dtype.
    """

    def __init__(self, columns: int, *, gram: bool, batches: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.squares = torch.zeros(columns, dtype=torch.float64, device=device)
        self.gram = torch.zeros(columns, columns, dtype=torch.float32, device=device) if gram else None
        self.drift: Tensor | None = None
        self._picks: list[Tensor] = []
        self._picks_per_batch = -(-SAMPLE_TOKENS // max(batches, 1))

    def add(self, x: Tensor) -> None:
        """x [..., columns]: one batch of inputs."""
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

    def add_beside(self, x: Tensor, dense: Tensor) -> None:
        """x [..., columns]: one batch of inputs; dense [..., columns]: what the dense model's layer meets instead.

        Tokens of far more than the usual energy have no part in the drift: one of them would outweigh all others.
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
    def metric(self) -> Metric:
        """Of all that was added; made once, in the memory of the gram matrix, which is gone then: they are large."""
        assert self.gram is not None, "the method asked for no gram matrix"
        gram, self.gram = self.gram, None
        return metric_of(gram, in_place=True)

    def forget_drift(self) -> None:
        self.drift = None

    @property
    def sample(self) -> Tensor:
        return torch.cat(self._picks)[:SAMPLE_TOKENS]

    @property
    def norms(self) -> Tensor:
        """[columns] ||X_j||_2, float32."""
        return self.squares.sqrt().float()


def relative_output_error(weight: Tensor, compressed: Tensor, sample: Tensor) -> float:
    """||X (W - W')^T||_F / ||X W^T||_F for the tokens in `sample` [tokens, columns]; 0 where W x is 0."""
    x = sample.float()
    wanted = x @ weight.float().T
    norm = torch.linalg.vector_norm(wanted)
    lost = wanted.addmm_(x, compressed.float().T, alpha=-1)
    return (torch.linalg.vector_norm(lost) / norm).item() if norm > 0 else 0.0
