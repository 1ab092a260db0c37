"""Token agreement: the fraction of positions at which two greedy outputs have the same token, and where they differ."""

from collections.abc import Sequence

from datasets import Features, Value
from datasets import Sequence as ListOf

from lsprism.evaluation.metrics.metric_base import MetricInMemory, make_score
from lsprism.records.evaluation import Score

AGREEMENT = "Fraction of positions with equal tokens, relative to the longer output; mean over the pairs."
DIVERGENCE = "Index, from 0, of the first token that differs or is missing; mean over the pairs that diverge."


class TokenAgreement(MetricInMemory):
    """token_agreement in [0, 1]; first_divergence in tokens, None for identical pairs."""

    about = "Fraction of equal tokens, and the first position that differs."
    inputs = Features({"prediction_tokens": ListOf(Value("int64")), "reference_tokens": ListOf(Value("int64"))})

    def _compute(
        self, prediction_tokens: list[list[int]], reference_tokens: list[list[int]], **_: object
    ) -> dict[str, Score]:
        pairs = list(zip(prediction_tokens, reference_tokens, strict=True))
        empty = sum(not (a and b) for a, b in pairs)
        notes = [f"{empty} of {len(pairs)} pairs have an output without tokens and score 0."] if empty else []
        parts = [find_divergence(a, b) for a, b in pairs]
        equal = [f"{parts.count(None)} of {len(pairs)} pairs are identical."]
        return {
            "token_agreement": make_score(
                "token_agreement", AGREEMENT, [compute_agreement(a, b) for a, b in pairs], notes
            ),
            "first_divergence": make_score("first_divergence", DIVERGENCE, parts, equal),
        }


def compute_agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Number of positions with equal tokens / the longer length; 0 if both are empty."""
    same = sum(a == b for a, b in zip(ours, theirs, strict=False))
    return same / max(len(ours), len(theirs), 1)


def find_divergence(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Index of the first token that differs, or the length of the shorter one; None if they are identical."""
    for n, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return n
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))
