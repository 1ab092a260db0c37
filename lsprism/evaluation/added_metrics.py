"""Metrics of other packages: what they are given, and the record of what they return."""

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import WorkError
from lsprism.evaluation.progress import Part
from lsprism.evaluation.windows import Windows
from lsprism.metric_declarations import Metric
from lsprism.records.evaluation import AddedResult
from lsprism.specs import MeasureSpec


@dataclass(frozen=True)
class MetricInput:
    """What a metric is computed from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    asked: MeasureSpec
    windows: Windows | None = None  # of the text, if the metric needs one
    baseline: PreTrainedModel | None = None  # if the metric needs it


def stream_added(metric: Metric, given: MetricInput) -> Part[AddedResult]:
    """Yield the metric's progress, then return its record. WorkError if a column has no value."""
    assert metric.measure is not None
    found = yield from metric.measure(given)
    missing = [column.key for column in metric.columns if column.key not in found.values]
    if missing:
        raise WorkError(f"The metric {metric.name} returned no value for {missing[0]}.", "Return one for each column.")
    values = {column.key: float(found.values[column.key]) for column in metric.columns}
    return AddedResult(columns=metric.columns, values=values, protocol=found.protocol)
