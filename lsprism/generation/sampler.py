"""From logits [vocab] to one token. Deterministic for a given seed, independent of global random state.

The steps and their order are those of transformers: repetition penalty, temperature, top-k, top-p.
"""

import torch
from torch import Tensor

from lsprism.errors import NumericError
from lsprism.specs import GenerateSpec

_RULED_OUT = float("-inf")


class Sampler:
    """Samples the tokens of one output. Random numbers come from the CPU, so a seed gives the same on every device."""

    def __init__(self, spec: GenerateSpec) -> None:
        self._spec = spec
        self._generator = torch.Generator().manual_seed(spec.seed)
        self._seen = torch.empty(0, dtype=torch.int64)

    def add_seen(self, tokens: Tensor) -> None:
        """Add tokens [n] to those that the repetition penalty applies to; `sample` adds its own."""
        if self._spec.repetition_penalty != 1:
            self._seen = torch.cat([self._seen.to(tokens.device), tokens]).unique()

    def sample(self, logits: Tensor) -> int:
        """The next token for logits [vocab] of any dtype; raises NumericError if their maximum is not finite."""
        token = (
            self._select_most_likely(logits) if self._spec.greedy else self._draw(self.compute_probabilities(logits))
        )
        if self._spec.repetition_penalty != 1:
            self.add_seen(torch.tensor([token], device=logits.device))
        return token

    def compute_probabilities(self, logits: Tensor) -> Tensor:
        """The sampling distribution, float32 [vocab]; exactly zero for excluded tokens."""
        scores = self._apply_penalty(logits)
        _check(scores.max())
        # The maximum becomes 0, so that a temperature near zero gives the most likely token instead of inf - inf.
        scores = (scores - scores.max()) / max(self._spec.temperature, torch.finfo(torch.float32).tiny)
        if self._spec.top_k:
            scores = filter_top_k(scores, self._spec.top_k)
        if self._spec.top_p < 1:
            scores = filter_top_p(scores, self._spec.top_p)
        return scores.softmax(dim=-1)

    def _select_most_likely(self, logits: Tensor) -> int:
        scores = self._apply_penalty(logits)
        token = int(scores.argmax())  # argmax returns a NaN if there is one
        _check(scores[token])
        return token

    def _apply_penalty(self, logits: Tensor) -> Tensor:
        scores = logits.float()
        if self._spec.repetition_penalty == 1:
            return scores
        return apply_repetition_penalty(scores, self._seen.to(scores.device), self._spec.repetition_penalty)

    def _draw(self, probabilities: Tensor) -> int:
        """Sample by inverting the cumulative distribution, over non-zero tokens only, so rounding cannot hit others."""
        possible = probabilities.nonzero()[:, 0]
        below = probabilities[possible].double().cumsum(dim=0)
        point = torch.rand((), dtype=torch.float64, generator=self._generator).to(below.device) * below[-1]
        place = torch.searchsorted(below, point, right=True).clamp(max=len(possible) - 1)
        return int(possible[place])


def _check(top: Tensor) -> None:
    if not top.isfinite():
        raise NumericError(f"The model's largest logit is {top.item()}.", "Try --dtype float32.")


def apply_repetition_penalty(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens `seen` [n] less likely. CTRL: Keskar et al., 2019, section 4.1; multiplies negative scores."""
    there = scores[seen]
    return scores.index_copy(0, seen, torch.where(there < 0, there * penalty, there / penalty))


def filter_top_k(scores: Tensor, k: int) -> Tensor:
    """Exclude tokens below the k-th highest of scores [vocab]; ties with it are kept."""
    kth = scores.topk(min(k, len(scores))).values[-1]
    return scores.masked_fill(scores < kth, _RULED_OUT)


def filter_top_p(scores: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens with a total probability of p, at least one (nucleus sampling: Holtzman et al., 2020)."""
    chances = scores.softmax(dim=-1)
    # All tokens below (1 - p) / vocab have less than 1 - p together, so none of them is kept and they need not be
    # sorted. Half of that bound leaves a margin for rounding with flat distributions.
    candidates = (chances >= (1 - p) / (2 * len(scores))).nonzero()[:, 0]
    descending, order = chances[candidates].double().sort(descending=True)
    before = descending.cumsum(dim=0) - descending
    kept = candidates[order[before < p]]
    return torch.full_like(scores, _RULED_OUT).index_copy(0, kept, scores[kept])
