"""Base of the metrics: their result record, and an `evaluate.GramFactor` without disk or network access."""

from collections.abc import Callable, Sequence, Sized
from statistics import fmean

import evaluate
from datasets import Features

from lsprism.records.evaluation import Score


def make_score(metric: str, protocol: str, values: Sequence[float | None], notes: Sequence[str] = ()) -> Score:
    """A Score with the mean of its values."""
    defined = [value for value in values if value is not None]
    mean = fmean(defined) if defined else None
    return Score(metric=metric, protocol=protocol, values=list(values), mean=mean, notes=list(notes))


def find_empty_pairs(
    predictions: Sequence[str], references: Sequence[str], content: Callable[[str], Sized] = str.strip
) -> tuple[set[int], list[str]]:
    """Indices of the pairs in which one text has no `content` (default: no visible character), and a note on them."""
    pairs = enumerate(zip(predictions, references, strict=True))
    empty = {n for n, pair in pairs if not all(map(content, pair))}
    return empty, [f"{len(empty)} of {len(predictions)} pairs have an empty text and score 0."] if empty else []


class MetricInMemory(evaluate.Metric):
    """A metric without disk or Hub access; subclasses define `inputs` and `_compute`."""

    about: str
    inputs: Features

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""  # evaluate would create a folder in the user's cache

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.about, citation="", features=self.inputs)
