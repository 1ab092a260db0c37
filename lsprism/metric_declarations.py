"""Every metric, declared once: its name, its sentence in the dashboard, what it needs, and its columns.

Another package adds a metric by an entry point of the group `lsprism.metrics`. Names are read without loading it.
"""

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from lsprism.errors import SpecError
from lsprism.extensions import check_name, find_entry_points, load_entry_point

GROUP = "lsprism.metrics"


@dataclass(frozen=True)
class Column:
    """A column of the comparison."""

    key: str
    title: str
    form: str  # for str.format
    better: str = ""  # "lower", "higher", or ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\{:,?(\.\d)?[efg%]\}[^{}]*", self.form):  # a report may come from anywhere
            raise ValueError(f"{self.form!r} is not the format of a number, such as '{{:.2f}}'")


@dataclass(frozen=True)
class MetricValues:
    """What a metric returns: a number for each of its columns, and how they were measured, in one sentence."""

    values: Mapping[str, float]  # by the key of the column
    protocol: str


@dataclass(frozen=True)
class Metric:
    """A metric. `measure` takes a MetricInput, yields progress and returns MetricValues; None: built in."""

    name: str
    summary: str
    columns: tuple[Column, ...]
    usual: bool = False  # computed unless other metrics are asked for
    needs_text: bool = False
    needs_baseline: bool = False
    measure: Callable[[Any], Generator[Any, None, MetricValues]] | None = None


METRICS = (  # in the order of the columns
    Metric(
        "sizes",
        "Sizes: parameters kept, bytes on disk and in memory",
        (
            Column("kept", "parameters kept", "{:.1%}", "lower"),
            Column("stored", "stored MB", "{:.1f}", "lower"),
            Column("resident", "resident MB", "{:.1f}", "lower"),
        ),
        usual=True,
    ),
    Metric(
        "perplexity",
        "Perplexity: exp(mean NLL) on held-out text",
        (Column("perplexity", "perplexity", "{:.2f}", "lower"),),
        usual=True,
        needs_text=True,
    ),
    Metric(
        "word-perplexity",
        "Word perplexity: comparable across tokenizers",
        (Column("word_perplexity", "word perplexity", "{:.2f}", "lower"),),
        needs_text=True,
    ),
    Metric(
        "kl",
        "KL and top-1: difference from the base model's next-token distribution",
        (Column("kl", "KL", "{:.3f}", "lower"), Column("top1", "top-1", "{:.1%}", "higher")),
        usual=True,
        needs_text=True,
        needs_baseline=True,
    ),
    Metric(
        "text",
        "Text: similarity to the base model's outputs (BERTScore, ROUGE)",
        (
            Column("bertscore_f1", "BERTScore", "{:.3f}", "higher"),
            Column("rougeL", "ROUGE-L", "{:.3f}", "higher"),
            Column("similarity", "similarity", "{:.3f}", "higher"),
            Column("correct", "accuracy", "{:.0%}", "higher"),
        ),
        usual=True,
    ),
    Metric(
        "zero-shot",
        "Zero-shot: multiple-choice tasks (requires lm-eval)",
        (Column("zero_shot", "zero-shot", "{:.1%}", "higher"),),
    ),
    Metric(
        "speed",
        "Speed: tokens per second and time to first token",
        (
            Column("speed", "tok/s", "{:.1f}", "higher"),
            Column("speedup", "speedup", "{:.2f}x", "higher"),
            Column("speedup_as_shipped", "speedup, checkpoint dtype", "{:.2f}x", "higher"),
            Column("first_token", "first token (s)", "{:.3f}", "lower"),
            Column("peak", "peak MB", "{:.0f}", "lower"),
        ),
        usual=True,
    ),
)

USUAL = tuple(metric.name for metric in METRICS if metric.usual)
BUILT_IN = {metric.name: metric for metric in sorted(METRICS, key=lambda metric: not metric.usual)}
COLUMNS = tuple(column for metric in METRICS for column in metric.columns)


def list_added_names() -> list[str]:
    """Names of the metrics of other packages."""
    return sorted(_find_added())


def check_metric_name(name: str) -> str:
    """`name`; ValueError if no metric has it."""
    return check_name(name, [*BUILT_IN, *list_added_names()])


def get_metric(name: str) -> Metric:
    """The declaration of a metric. SpecError if another package declares it and that fails."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = _find_added()[name]
    metric = load_entry_point(point, "metric")
    if not isinstance(metric, Metric) or metric.name != name or metric.measure is None:
        raise SpecError(f"{point.value} is not a metric named {name}.", "Declare it as a Metric with this name.")
    taken = {column.key for column in COLUMNS} & {column.key for column in metric.columns}
    if taken:
        raise SpecError(f"The metric {name} has the column {min(taken)}, which is taken.", "Give it another key.")
    return metric


def list_summaries() -> dict[str, str]:
    """Name -> sentence for the dashboard; the name alone if a metric of another package cannot be loaded."""
    summaries = {name: metric.summary for name, metric in BUILT_IN.items()}
    for name in list_added_names():
        summaries[name] = name
        with suppress(SpecError):  # said when the metric is asked for
            summaries[name] = get_metric(name).summary
    return summaries


def _find_added() -> dict[str, EntryPoint]:
    """The metrics of other packages."""
    return find_entry_points(GROUP, BUILT_IN)
