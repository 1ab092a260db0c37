"""What an evaluation answers with: the sides, their figures, their answers to prompts, and what is to be doubted.

One EvalReport compares one model with its baseline, or describes one model alone; a StudyReport holds several.
"""

from typing import Literal

from pydantic import computed_field

from lsprism.figures import (
    AgreementFigure,
    DtypeSpeeds,
    PerplexityFigure,
    SizeFigure,
    SpeedComparison,
    SpeedFigure,
    WordPerplexityFigure,
    ZeroShotFigure,
)
from lsprism.reports import Record, SourceKind


class Score(Record):
    """One measure of every pair of texts."""

    metric: str
    protocol: str  # one sentence: what is computed, by which judge, how it is averaged
    values: list[float | None]  # one per pair; None: not defined for it
    mean: float | None  # of the values that are defined
    notes: list[str]


class Answer(Record):
    """One answer; `tokens` holds its end token too, `text` shows no special tokens and may be empty."""

    text: str
    tokens: tuple[int, ...]
    reason: str  # why it ended: stop, length, ...


class Row(Record):
    """One prompt with its answers. `right` is None where nothing can be checked."""

    id: str
    prompt: str
    reference: str | None
    answer: Answer
    right: bool | None
    baseline: Answer | None
    baseline_right: bool | None


class Tally(Record):
    """How many of the checkable answers are right."""

    right: int
    checkable: int

    @computed_field
    @property
    def share(self) -> float:
        return self.right / self.checkable


class Closeness(Record):
    """How close answers are to other texts; `values` of every score are in the order of `ids`."""

    ids: list[str]
    scores: dict[str, Score]


class TaskReport(Record):
    """A task's outcome. What needs a baseline is None without one, what needs references or checks likewise."""

    task: str  # with the number of prompts, a subset called so
    origin: str
    protocol: str
    rows: list[Row]
    correct: Tally | None
    baseline_correct: Tally | None
    against_baseline: Closeness | None
    against_reference: Closeness | None
    baseline_against_reference: Closeness | None
    notes: list[str]


class Subject(Record):
    """A model that was measured."""

    model_id: str  # as the user wrote it
    base_model: str  # to cite: hub id or folder name
    kind: SourceKind
    revision: str = ""
    fingerprint: str  # of its files: two models with the same one are the same model
    dtype: str
    device: str
    method: str = ""  # empty: not compressed
    sparsity: float | None = None  # as asked for when it was compressed
    calibration: str = ""  # name of the text that it was calibrated on
    packed_layers: int = 0  # that are held in a compressed form

    @property
    def label(self) -> str:
        """'hybrid 0.5', or the name of a dense model."""
        return f"{self.method} {self.sparsity:g}" if self.sparsity is not None else self.model_id


class SideReport(Record):
    """One model's own figures; None or empty: not measured."""

    model: Subject
    sizes: SizeFigure | None = None
    likelihood: PerplexityFigure | None = None
    words: WordPerplexityFigure | None = None
    speeds: list[SpeedFigure] = []  # one per length of the prompt
    zero_shot: ZeroShotFigure | None = None


class Flag(Record):
    """A figure that is not to be believed as it stands, and why; wherever the figure is shown, so is this."""

    figure: str  # key of the column: perplexity, speedup, similarity, ...
    side: Literal["model", "baseline"]
    reason: str


class EvalReport(Record):
    """One model measured, its baseline beside it where there is one."""

    format: Literal[1] = 1  # of the file; another one is refused
    created: str  # ISO 8601, UTC
    environment: dict[str, str | int | None]
    compressed: SideReport  # the model that was asked for; it need not be compressed
    baseline: SideReport | None = None
    agreement: AgreementFigure | None = None
    speedups: list[SpeedComparison] = []  # against the baseline in its fastest dtype, one per length of the prompt
    speedups_as_shipped: list[SpeedComparison] = []  # in the dtype that it ships in, where that is another one
    dtypes: DtypeSpeeds | None = None  # how the fastest dtype was found
    tasks: list[TaskReport] = []
    flags: list[Flag] = []
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


class Advice(Record):
    """Which model to take, by which rule, and the figures that decided."""

    rule: str
    choice: str  # label of a model; empty: none passes
    reason: str


class StudyReport(Record):
    """Several compressions of one model under one protocol."""

    format: Literal[1] = 1  # of the file; another one is refused
    model_id: str
    reports: list[EvalReport]
    advice: Advice
