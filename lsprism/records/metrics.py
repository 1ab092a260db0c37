"""Metrics with their measurement protocol.

Every metric holds the settings it was measured with, and `protocol()` describes them in one sentence, which is shown
with the metric. Sizes are in bytes; names of seconds end in `_s`.
"""

from statistics import fmean, median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

Begins = Literal["each", "first"]


class MetricResult(BaseModel):
    """Base class of all metrics. Infinity, which JSON cannot represent, is written as the string "Infinity"."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), ser_json_inf_nan="strings")


class ModelMetricResult(MetricResult):
    """A metric of a model that reads text; products of many tokens may be computed in a dtype other than `dtype`."""

    dtype: str
    compute_dtype: str = ""  # empty: same as dtype

    @property
    def dtypes(self) -> str:
        """Both dtypes as text."""
        return format_dtypes(self.dtype, self.compute_dtype)


def format_dtypes(dtype: str, compute_dtype: str) -> str:
    """'bfloat16', or 'bfloat16 (computed in float32)'."""
    return dtype if compute_dtype in ("", dtype) else f"{dtype} (computed in {compute_dtype})"


class WordPerplexityResult(ModelMetricResult):
    """Perplexity per word, which is comparable between models with different tokenizers."""

    value: float
    nll: float  # nats per word
    words: int  # whitespace-separated words
    tokens: int  # predicted tokens
    documents: int
    of: int  # total number of documents
    context: int
    prefix: Literal["BOS", "EOS"]  # token before each document
    begins: Begins = "first"  # windows of a document that start with it
    text: str
    device: str

    @computed_field
    @property
    def is_subset(self) -> bool:
        return self.documents < self.of

    def format_protocol(self) -> str:
        return (
            f"Word perplexity as in lm-eval: exp(NLL / words) over {self.words:,} whitespace-separated words"
            f" ({self.tokens:,} tokens) of {self.text}, {_format_part(self.documents, self.of, 'documents')}; "
            f"each document"
            f" scored separately, in rolling windows of {self.context:,} tokens, {self.prefix} before"
            f" {_format_which(self.begins)} window; {self.dtypes} on {self.device}."
        )


class PerplexityResult(ModelMetricResult):
    """exp of the mean negative log-likelihood over all predicted tokens of consecutive windows."""

    value: float
    nll: float  # mean, nats per predicted token
    tokens: int  # predicted tokens
    windows: int
    of: int  # total number of windows
    context: int  # tokens per window
    text: str  # name and split
    bos: bool  # the text starts with the tokenizer's BOS token
    begins: Begins = "first"  # windows that start with BOS, if there is one
    device: str

    @computed_field
    @property
    def is_subset(self) -> bool:
        return self.windows < self.of

    def format_protocol(self) -> str:
        return (
            f"Perplexity: exp(mean NLL) over {self.tokens:,} predicted tokens of {self.text},"
            f" {_format_cut(self)}; {self.dtypes} on {self.device}."
        )


class AgreementResult(ModelMetricResult):
    """How close a model's next-token distributions are to the baseline's, on the same text."""

    kl: float  # mean KL(baseline || model), nats per token
    top1: float  # top-1 agreement: fraction of positions at which both predict the same most likely token
    tokens: int  # number of compared positions
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

    def format_protocol(self) -> str:
        return (
            f"Next-token agreement, teacher-forced on {self.tokens:,} tokens of {self.text}, {_format_cut(self)}:"
            f" mean KL(baseline || model) in nats per token, and top-1 agreement;"
            f" baseline in {format_dtypes(self.baseline_dtype, self.baseline_compute_dtype)}, model in"
            f" {self.dtypes}, on {self.device}."
        )


class SpeedResult(ModelMetricResult):
    """Generation speed of one model with prompts of one length."""

    model: str
    prompt_tokens: int
    new_tokens: int
    first_token_runs_s: list[float]  # time to first token, one per repetition
    tokens_per_s_runs: list[float]  # decode speed after the first token, one per repetition
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

    def format_protocol(self) -> str:
        peak = "; peak memory of a separate process, minus import overhead" if self.peak_memory_bytes else ""
        if peak and self.device.startswith("cuda"):
            peak = "; peak memory allocated by PyTorch on the device, in a separate process"
        return f"Speed: {_format_timing(self)}; {self.dtypes} on {self.device}, {_count(self.threads, 'thread')}{peak}."


class SpeedComparison(MetricResult):
    """The speeds of two models, measured interleaved; a ratio above 1 means that the compressed one is faster."""

    baseline: SpeedResult
    compressed: SpeedResult
    in_turn: bool = True  # interleaved (A B A B) in one process; False: loaded one at a time, as both did not fit

    @computed_field
    @property
    def ratios(self) -> list[float]:
        """Decode speed, compressed / baseline, for each repetition."""
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

    def format_protocol(self) -> str:
        """The same for every pair of models: the dtypes of both are those of their speeds."""
        speed = self.compressed
        alone = "loaded one at a time (both did not fit in memory)"
        how = "interleaved (A B A B) in one process" if self.in_turn else alone
        return (
            f"Ratio of decode speeds, compressed / baseline: median and range of {len(self.ratios)} pairs, {how}; the"
            f" baseline in its fastest dtype or, as shipped, in the dtype of its checkpoint; "
            f"{_format_timing(speed)}; on"
            f" {speed.device}, {_count(speed.threads, 'thread')}."
        )


class DtypeSpeeds(MetricResult):
    """Decode speed of a dense model in each dtype; the fastest one is used for the baseline."""

    tokens_per_s: dict[str, float]  # dtype -> median
    left_out: dict[str, str] = {}  # dtype in which the model does not run -> reason
    prompt_tokens: int
    new_tokens: int
    repetitions: int
    device: str
    threads: int

    @computed_field
    @property
    def fastest(self) -> str:
        return max(self.tokens_per_s, key=self.tokens_per_s.__getitem__)

    def format_protocol(self) -> str:
        speeds = ", ".join(
            [f"{dtype} {speed:.1f} tok/s" for dtype, speed in self.tokens_per_s.items()]
            + [f"{dtype} does not run" for dtype in self.left_out]
        )
        return (
            f"The fastest dense dtype is {self.fastest} ({speeds}): batch 1, greedy, {self.new_tokens:,} tokens after"
            f" a prompt of {self.prompt_tokens:,}, median of {self.repetitions} repetitions, each dtype loaded"
            f" separately; on {self.device}, {_count(self.threads, 'thread')}."
        )


class SizeResult(MetricResult):
    """Sizes of a model: parameters, bytes on disk, bytes in memory."""

    kept_parameters: int  # of the whole model: non-zeros, entries of low-rank factors, and uncompressed parts
    model_parameters: int = Field(ge=1)  # before compression; tied weights counted once
    stored_bytes: int  # size of the safetensors files
    resident_bytes: int  # size of the tensors in memory
    dtype: str  # as loaded

    @computed_field
    @property
    def kept_share(self) -> float:
        return self.kept_parameters / self.model_parameters

    def format_protocol(self) -> str:
        return (
            "Sizes: parameters kept, relative to the whole uncompressed model (embeddings included, tied weights"
            " counted once); bytes of the safetensors files on disk; bytes of all tensors in memory, loaded in"
            f" {self.dtype}."
        )


class ZeroShotResult(ModelMetricResult):
    """Accuracies on multiple-choice tasks, computed by lm-eval."""

    accuracy: dict[str, float]  # task -> acc_norm, or acc if the task has no acc_norm
    stderr: dict[str, float]
    metric: dict[str, str]  # task -> name of its metric
    examples: dict[str, int]  # task -> number of examples
    limit: int | None  # maximum number of examples per task; None: all
    version: str  # version of lm-eval
    device: str

    @computed_field
    @property
    def mean(self) -> float:
        return fmean(self.accuracy.values())

    def format_protocol(self) -> str:
        tasks = ", ".join(f"{task} ({self.metric[task]}, {self.examples[task]:,})" for task in self.accuracy)
        limit = "all examples" if self.limit is None else f"the first {self.limit:,} examples of each (a subset)"
        return f"Zero-shot accuracy by lm-eval {self.version}: {tasks}; {limit}; {self.dtypes} on {self.device}."


def _format_part(count: int, of: int, what: str) -> str:
    return f"all {of:,} {what}" if count == of else f"{count:,} of {of:,} {what} (a subset)"


def _format_cut(figure: PerplexityResult | AgreementResult) -> str:
    """How the text was split into windows."""
    bos = f"with BOS before {_format_which(figure.begins)} window" if figure.bos else "without BOS"
    return (
        f"tokenized once {bos},"
        f" {_format_part(figure.windows, figure.of, 'non-overlapping windows')} of {figure.context:,} tokens"
    )


def _format_which(begins: Begins) -> str:
    return "each" if begins == "each" else "the first"


def _format_timing(figure: SpeedResult) -> str:
    return (
        f"batch 1, greedy, prompt of {figure.prompt_tokens:,} tokens, {figure.new_tokens:,} new tokens, EOS ignored,"
        f" warm-up excluded, decode speed without time to first token, median of"
        f" {_count(len(figure.tokens_per_s_runs), 'repetition')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
