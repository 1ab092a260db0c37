"""What was measured: figures with their protocol.

Every figure holds the settings that it was measured under, and `protocol()` says them in one sentence; where a figure
is shown, so is that sentence. Bytes are bytes, seconds end in `_s`.
"""

from statistics import fmean, median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

Begins = Literal["each", "first"]


class Figure(BaseModel):
    """Base of all figures. Infinity, for which JSON has no number, is written as the string "Infinity"."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), ser_json_inf_nan="strings")


class ModelFigure(Figure):
    """Of a model that reads text. Products of many tokens may be computed in another dtype than the weights'."""

    dtype: str
    compute_dtype: str = ""  # empty: the same

    @property
    def dtypes(self) -> str:
        """Both, in words."""
        return name_dtypes(self.dtype, self.compute_dtype)


def name_dtypes(dtype: str, compute_dtype: str) -> str:
    """'bfloat16', or 'bfloat16, products computed in float32'."""
    return dtype if compute_dtype in ("", dtype) else f"{dtype}, products computed in {compute_dtype}"


class WordPerplexityFigure(ModelFigure):
    """Perplexity per word: it can be compared between models with different tokenizers."""

    value: float
    nll: float  # nats per word
    words: int  # separated by white space
    tokens: int  # predicted
    documents: int
    of: int  # documents there are
    context: int
    prefix: Literal["BOS", "EOS"]  # the token before each document
    begins: Begins = "first"  # each: it stands before every window of a document
    text: str
    device: str

    @computed_field
    @property
    def is_subset(self) -> bool:
        return self.documents < self.of

    def protocol(self) -> str:
        return (
            f"Word perplexity as lm-eval defines it: exp(NLL / words) over {self.words:,} words separated by white"
            f" space ({self.tokens:,} tokens) of {self.text}, {_part(self.documents, self.of, 'documents')}; each"
            f" document alone, in rolling windows of {self.context:,} tokens, {self.prefix} before"
            f" {_which(self.begins)}; {self.dtypes} on {self.device}."
        )


class PerplexityFigure(ModelFigure):
    """exp of the mean negative log-likelihood over all predicted tokens of consecutive windows."""

    value: float
    nll: float  # mean, nats per predicted token
    tokens: int  # predicted
    windows: int
    of: int  # windows there are
    context: int  # tokens per window
    text: str  # its name and split
    bos: bool  # the text begins with the tokenizer's beginning-of-text token
    begins: Begins = "first"  # which windows it stands before, if there is one
    device: str

    @computed_field
    @property
    def is_subset(self) -> bool:
        return self.windows < self.of

    def protocol(self) -> str:
        return (
            f"Perplexity: exp(mean NLL) over {self.tokens:,} predicted tokens of {self.text},"
            f" {_cut(self)}; {self.dtypes} on {self.device}."
        )


class AgreementFigure(ModelFigure):
    """How close a model's next-token distributions are to the baseline's, on the same text."""

    kl: float  # mean KL(baseline || model), nats per token
    top1: float  # share of positions at which both have the same likeliest token
    tokens: int  # positions compared
    windows: int
    of: int
    context: int
    text: str
    bos: bool
    begins: Begins = "first"
    baseline_dtype: str
    baseline_compute_dtype: str = ""
    device: str

    @computed_field
    @property
    def is_subset(self) -> bool:
        return self.windows < self.of

    def protocol(self) -> str:
        return (
            f"Next-token agreement, teacher-forced on {self.tokens:,} tokens of {self.text}, {_cut(self)}:"
            f" mean KL(baseline || model) in nats per token, and the share of equal likeliest tokens;"
            f" baseline in {name_dtypes(self.baseline_dtype, self.baseline_compute_dtype)}, model in"
            f" {self.dtypes}, on {self.device}."
        )


class SpeedFigure(ModelFigure):
    """How fast one model answers a prompt of one length."""

    model: str
    prompt_tokens: int
    new_tokens: int
    first_token_runs_s: list[float]  # one per repetition: prefill and the choice of the first token
    tokens_per_s_runs: list[float]  # one per repetition: tokens after the first / their time
    device: str
    threads: int
    peak_memory_bytes: int | None = None  # None: not measured

    @computed_field
    @property
    def first_token_s(self) -> float:
        return median(self.first_token_runs_s)

    @computed_field
    @property
    def tokens_per_s(self) -> float:
        return median(self.tokens_per_s_runs)

    def protocol(self) -> str:
        peak = "; peak memory in a process of its own, less one that only imports" if self.peak_memory_bytes else ""
        if peak and self.device.startswith("cuda"):
            peak = "; peak memory that PyTorch took on the device, in a process of its own"
        return f"Speed: {_timing(self)}; {self.dtypes} on {self.device}, {_count(self.threads, 'thread')}{peak}."


class SpeedComparison(Figure):
    """The speeds of two sides, measured in turn; above 1 the compressed side is the faster one."""

    baseline: SpeedFigure
    compressed: SpeedFigure
    in_turn: bool = True  # A B A B in one process; False: each loaded alone, as both did not fit

    @computed_field
    @property
    def ratios(self) -> list[float]:
        """Decode speed, compressed / baseline, repetition by repetition."""
        pairs = zip(self.compressed.tokens_per_s_runs, self.baseline.tokens_per_s_runs, strict=True)
        return [ours / theirs for ours, theirs in pairs]

    @computed_field
    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @computed_field
    @property
    def lowest(self) -> float:
        return min(self.ratios)

    @computed_field
    @property
    def highest(self) -> float:
        return max(self.ratios)

    @computed_field
    @property
    def first_token_ratio(self) -> float:
        """Time to first token, baseline / compressed, median over the pairs."""
        pairs = zip(self.baseline.first_token_runs_s, self.compressed.first_token_runs_s, strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def protocol(self) -> str:
        a, b = self.baseline, self.compressed
        turn = "in turn (A B A B) in one process" if self.in_turn else "each loaded alone, as both did not fit"
        return (
            f"Ratio of decode speeds, compressed / baseline, median and spread of {len(self.ratios)} pairs measured"
            f" {turn}: {_timing(b)}; {b.model} in {b.dtypes} against"
            f" {a.model} in {a.dtypes} on {b.device},"
            f" {_count(b.threads, 'thread')}."
        )


class DtypeSpeeds(Figure):
    """How fast one dense model decodes in each dtype that the device offers for it; the baseline is the fastest."""

    tokens_per_s: dict[str, float]  # dtype -> median
    left_out: dict[str, str] = {}  # dtype in which the model does not run -> why
    prompt_tokens: int
    new_tokens: int
    repetitions: int
    device: str
    threads: int

    @computed_field
    @property
    def fastest(self) -> str:
        return max(self.tokens_per_s, key=self.tokens_per_s.__getitem__)

    def protocol(self) -> str:
        speeds = ", ".join(
            [f"{dtype} {speed:.1f} tok/s" for dtype, speed in self.tokens_per_s.items()]
            + [f"{dtype} does not run" for dtype in self.left_out]
        )
        return (
            f"The fastest dense dtype is {self.fastest} ({speeds}): batch 1, greedy, {self.new_tokens:,} tokens after"
            f" a prompt of {self.prompt_tokens:,}, median of {self.repetitions} repetitions, each dtype loaded alone;"
            f" on {self.device}, {_count(self.threads, 'thread')}."
        )


class SizeFigure(Figure):
    """Three sizes that are never mixed."""

    kept_parameters: int  # of the whole model: non-zeros, entries of factors, and all that was left alone
    model_parameters: int = Field(ge=1)  # before compression; tied weights once
    stored_bytes: int  # of the safetensors files
    resident_bytes: int  # of the tensors in memory
    dtype: str  # as loaded

    @computed_field
    @property
    def kept_share(self) -> float:
        return self.kept_parameters / self.model_parameters

    def protocol(self) -> str:
        return (
            "Sizes counted from the model itself: parameters kept of the whole model's, embeddings included and tied"
            " weights once; bytes of its safetensors files on disk; bytes of all its tensors in memory, as loaded in"
            f" {self.dtype}."
        )


class ZeroShotFigure(ModelFigure):
    """Accuracies on multiple-choice tasks, as lm-eval computes them."""

    accuracy: dict[str, float]  # task -> acc_norm, or acc where a task has no other
    stderr: dict[str, float]
    metric: dict[str, str]  # task -> name of its metric
    examples: dict[str, int]  # task -> number of examples
    limit: int | None  # examples per task at most; None: all
    version: str  # of lm-eval
    device: str

    @computed_field
    @property
    def mean(self) -> float:
        return fmean(self.accuracy.values())

    def protocol(self) -> str:
        tasks = ", ".join(f"{task} ({self.metric[task]}, {self.examples[task]:,})" for task in self.accuracy)
        limit = "all examples" if self.limit is None else f"the first {self.limit:,} examples of each (a subset)"
        return f"Zero-shot accuracy by lm-eval {self.version}: {tasks}; {limit}; {self.dtypes} on {self.device}."


def _part(count: int, of: int, what: str) -> str:
    return f"all {of:,} {what}" if count == of else f"{count:,} of {of:,} {what} (a subset)"


def _cut(figure: PerplexityFigure | AgreementFigure) -> str:
    """How the text became windows."""
    bos = f"with BOS before {_which(figure.begins)} window" if figure.bos else "without BOS"
    return (
        f"tokenized once {bos},"
        f" {_part(figure.windows, figure.of, 'non-overlapping windows')} of {figure.context:,} tokens"
    )


def _which(begins: Begins) -> str:
    return "each" if begins == "each" else "the first"


def _timing(figure: SpeedFigure) -> str:
    return (
        f"batch 1, greedy, prompt of {figure.prompt_tokens:,} tokens, {figure.new_tokens:,} new ones with end-of-text"
        f" ignored, warm-up not counted, time to first token apart from decoding, median of"
        f" {_count(len(figure.tokens_per_s_runs), 'repetition')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
