"""What every metric shares: the record it answers with, and an `evaluate.Metric` that lives in memory alone."""

from collections.abc import Callable, Sequence, Sized
from statistics import fmean

import evaluate
from datasets import Features

from lsprism.outcomes import Score


def scored(metric: str, protocol: str, values: Sequence[float | None], notes: Sequence[str] = ()) -> Score:
    """A Score with its mean."""
    defined = [value for value in values if value is not None]
    mean = fmean(defined) if defined else None
    return Score(metric=metric, protocol=protocol, values=list(values), mean=mean, notes=list(notes))


def empty_pairs(
    predictions: Sequence[str], references: Sequence[str], content: Callable[[str], Sized] = str.strip
) -> tuple[set[int], list[str]]:
    """The pairs of which one side has no `content`, by default no visible character, and the note that says so."""
    pairs = enumerate(zip(predictions, references, strict=True))
    empty = {n for n, pair in pairs if not all(map(content, pair))}
    return empty, [f"{len(empty)} of {len(predictions)} pairs have an empty side and score 0."] if empty else []


class MetricInMemory(evaluate.Metric):
    """A metric that touches neither the disk nor the hub; subclasses say what `inputs` they take, and compute."""

    about: str
    inputs: Features

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in the user's cache, which nothing in memory needs

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.about, citation="", features=self.inputs)
