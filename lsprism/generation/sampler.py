"""From logits [vocab] to one token, reproducible under a seed whatever else draws random numbers.

The steps and their order are those of transformers: repetition penalty, temperature, top-k, top-p.
"""

import torch
from torch import Tensor

from lsprism.errors import NumericError
from lsprism.specs import GenerateSpec

_RULED_OUT = float("-inf")


class Sampler:
    """The choices of one answer. The random numbers come from the CPU, so one seed means the same on every device."""

    def __init__(self, spec: GenerateSpec) -> None:
        self._spec = spec
        self._generator = torch.Generator().manual_seed(spec.seed)
        self._seen = torch.empty(0, dtype=torch.int64)

    def see(self, tokens: Tensor) -> None:
        """Note tokens [n] as already there, for the repetition penalty; `pick` notes its own."""
        if self._spec.repetition_penalty != 1:
            self._seen = torch.cat([self._seen.to(tokens.device), tokens]).unique()

    def pick(self, logits: Tensor) -> int:
        """The next token for logits [vocab] of any dtype; raises NumericError if they are not numbers."""
        token = self._likeliest(logits) if self._spec.greedy else self._draw(self.probabilities(logits))
        if self._spec.repetition_penalty != 1:
            self.see(torch.tensor([token], device=logits.device))
        return token

    def probabilities(self, logits: Tensor) -> Tensor:
        """What a draw would be made from, float32 [vocab]; exactly zero for the tokens ruled out."""
        scores = self._penalized(logits)
        _check(scores.max())
        # The largest score becomes 0: a temperature close to zero then means the likeliest token, not inf - inf.
        scores = (scores - scores.max()) / max(self._spec.temperature, torch.finfo(torch.float32).tiny)
        if self._spec.top_k:
            scores = keep_top_k(scores, self._spec.top_k)
        if self._spec.top_p < 1:
            scores = keep_top_p(scores, self._spec.top_p)
        return scores.softmax(dim=-1)

    def _likeliest(self, logits: Tensor) -> int:
        scores = self._penalized(logits)
        token = int(scores.argmax())  # of a nan, if there is one
        _check(scores[token])
        return token

    def _penalized(self, logits: Tensor) -> Tensor:
        scores = logits.float()
        if self._spec.repetition_penalty == 1:
            return scores
        return penalize(scores, self._seen.to(scores.device), self._spec.repetition_penalty)

    def _draw(self, probabilities: Tensor) -> int:
        """Invert the distribution function, over the possible tokens only: no rounding can reach another one."""
        possible = probabilities.nonzero()[:, 0]
        below = probabilities[possible].double().cumsum(dim=0)
        point = torch.rand((), dtype=torch.float64, generator=self._generator).to(below.device) * below[-1]
        place = torch.searchsorted(below, point, right=True).clamp(max=len(possible) - 1)
        return int(possible[place])


def _check(top: Tensor) -> None:
    if not top.isfinite():
        raise NumericError(f"The model's largest logit is {top.item()}.", "Try --dtype float32.")


def penalize(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens `seen` [n] less likely. Keskar et al. 2019, CTRL, section 4.1; negative scores are multiplied."""
    there = scores[seen]
    return scores.index_copy(0, seen, torch.where(there < 0, there * penalty, there / penalty))


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Rule out what scores less than the k-th of scores [vocab]; equals of the k-th stay."""
    kth = scores.topk(min(k, len(scores))).values[-1]
    return scores.masked_fill(scores < kth, _RULED_OUT)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens whose mass reaches p, at least one. Holtzman et al. 2020, nucleus sampling."""
    chances = scores.softmax(dim=-1)
    # All tokens below (1 - p) / vocab together have less than 1 - p, so none of them stays. Not sorting them spares
    # most of a vocabulary; half of that bound keeps a flat distribution clear of rounding.
    candidates = (chances >= (1 - p) / (2 * len(scores))).nonzero()[:, 0]
    descending, order = chances[candidates].double().sort(descending=True)
    before = descending.cumsum(dim=0) - descending
    kept = candidates[order[before < p]]
    return torch.full_like(scores, _RULED_OUT).index_copy(0, kept, scores[kept])
