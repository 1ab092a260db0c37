"""Evaluation reports: metrics of a model and its baseline, their outputs for prompts, and flags.

An EvalReport compares one model with its baseline, or describes one model alone; a SweepReport holds several.
"""

from typing import Literal

from pydantic import Field, computed_field

from lsprism.metric_declarations import Column
from lsprism.records.metrics import (
    AgreementResult,
    DtypeSpeeds,
    MetricResult,
    PerplexityResult,
    SizeResult,
    SpeedComparison,
    SpeedResult,
    WordPerplexityResult,
    ZeroShotResult,
)
from lsprism.records.model_plan import Record, SourceKind


class Score(Record):
    """One metric over pairs of texts."""

    metric: str
    protocol: str  # one sentence: what is computed, with which encoder, how it is averaged
    values: list[float | None]  # one per pair; None: undefined
    mean: float | None  # mean of the defined values
    notes: list[str]


class ModelAnswer(Record):
    """One output; `tokens` includes the end token, `text` has no special tokens and may be empty."""

    text: str
    tokens: tuple[int, ...]
    reason: str  # stop reason: eos, length, ...


class PromptResult(Record):
    """One prompt with the outputs of both models. `right` is None if the prompt has no checks."""

    id: str
    prompt: str
    reference: str | None
    answer: ModelAnswer
    right: bool | None
    baseline: ModelAnswer | None
    baseline_right: bool | None


class Accuracy(Record):
    """Number of correct outputs among those that can be checked."""

    right: int
    checkable: int

    @computed_field
    @property
    def share(self) -> float:
        return self.right / self.checkable


class TextSimilarity(Record):
    """Similarity of outputs to other texts; `values` of every score are in the order of `ids`."""

    ids: list[str]
    scores: dict[str, Score]


class TaskReport(Record):
    """Results of a task. Fields that need a baseline, references or checks are None without them."""

    task: str  # name with the number of prompts, labeled if it is a subset
    origin: str
    protocol: str
    rows: list[PromptResult]
    correct: Accuracy | None
    baseline_correct: Accuracy | None
    against_baseline: TextSimilarity | None
    against_reference: TextSimilarity | None
    baseline_against_reference: TextSimilarity | None
    notes: list[str]


class ModelInfo(Record):
    """An evaluated model."""

    model_id: str  # as given by the user
    base_model: str  # name to cite: Hub id or folder name
    kind: SourceKind
    revision: str = ""
    fingerprint: str  # identifies the files: equal for the same model
    dtype: str
    device: str
    method: str = ""  # empty: not compressed
    sparsity: float | None = None  # as requested for the compression
    calibration: str = ""  # name of the calibration text
    packed_layers: int = 0  # number of layers with packed weights

    @property
    def label(self) -> str:
        """'hybrid 0.5', or the name of a dense model."""
        return f"{self.method} {self.sparsity:g}" if self.sparsity is not None else self.model_id


class AddedResult(MetricResult):
    """A metric of another package, with its columns, so that the report is shown without that package."""

    columns: tuple[Column, ...]
    values: dict[str, float]  # by the key of the column
    protocol: str


class ModelReport(Record):
    """The metrics of one model; None or empty: not measured."""

    model: ModelInfo
    sizes: SizeResult | None = None
    likelihood: PerplexityResult | None = None
    words: WordPerplexityResult | None = None
    speeds: list[SpeedResult] = []  # one per prompt length
    zero_shot: ZeroShotResult | None = None
    extra: dict[str, AddedResult] = Field({}, exclude_if=lambda results: not results)  # by the name of the metric


class SanityFlag(Record):
    """A doubtful metric and the reason; shown wherever the metric is shown."""

    figure: str  # key of the column: perplexity, speedup, similarity, ...
    side: Literal["model", "baseline"]
    reason: str


class EvalReport(Record):
    """The evaluation of one model, with its baseline if there is one."""

    format: Literal[1] = 1  # version of the file format; other versions are an error
    created: str  # ISO 8601, UTC
    environment: dict[str, str | int | None]
    compressed: ModelReport  # the evaluated model, which may be uncompressed
    baseline: ModelReport | None = None
    agreement: AgreementResult | None = None
    speedups: list[SpeedComparison] = []  # relative to the baseline in its fastest dtype, one per prompt length
    speedups_as_shipped: list[SpeedComparison] = []  # to the baseline in its checkpoint's dtype, if that is another
    dtypes: DtypeSpeeds | None = None  # the baseline's speed in each dtype
    tasks: list[TaskReport] = []
    flags: list[SanityFlag] = []
    notes: list[str] = []

    @computed_field
    @property
    def perplexity(self) -> float | None:
        return self.compressed.likelihood.value if self.compressed.likelihood else None

    @computed_field
    @property
    def baseline_perplexity(self) -> float | None:
        return self.baseline.likelihood.value if self.baseline and self.baseline.likelihood else None

    @computed_field
    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed at the first prompt length."""
        return self.compressed.speeds[0].tokens_per_s if self.compressed.speeds else None

    @computed_field
    @property
    def baseline_tokens_per_s(self) -> float | None:
        return self.baseline.speeds[0].tokens_per_s if self.baseline and self.baseline.speeds else None

    @computed_field
    @property
    def speedup(self) -> float | None:
        """Over the baseline in its fastest dtype, at the first prompt length."""
        return self.speedups[0].ratio if self.speedups else None


class Recommendation(Record):
    """The recommended model, the rule, and the metrics that decided."""

    rule: str
    choice: str  # label of a model; empty: no model meets the rule
    reason: str


class SweepReport(Record):
    """Evaluations of several compressed versions of one model, with one protocol."""

    format: Literal[1] = 1  # version of the file format; other versions are an error
    model_id: str
    reports: list[EvalReport]
    advice: Recommendation
