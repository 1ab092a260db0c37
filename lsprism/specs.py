"""What may be asked: frozen requests, checked when made; one schema for the command line, YAML and the form.

A field's description is its help text. Nothing here knows torch: a form can be checked in milliseconds.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lsprism.errors import SpecError
from lsprism.paths import expand
from lsprism.reports import ValuesName

MethodName = Literal["hybrid", "oats", "sparsegpt", "wanda", "magnitude", "svd", "svd-plain"]
PatternName = Literal["unstructured", "2:4", "4:8"]
JOINED = ("hybrid", "oats")  # methods of which a part of what is kept goes to factors
PATTERNED = ("hybrid", "wanda", "sparsegpt", "magnitude")  # methods that can keep n of every m neighbours
BudgetName = Literal["auto", "uniform", "owl", "atp", "spectrum", "kmif", "harm", "measured"]
EffortName = Literal["fast", "best"]
DtypeName = Literal["auto", "bfloat16", "float16", "float32"]
BosName = Literal["each", "first"]
MeasureName = Literal["sizes", "perplexity", "kl", "text", "speed", "word-perplexity", "zero-shot"]
USUAL: tuple[MeasureName, ...] = ("sizes", "perplexity", "kl", "text", "speed")
TaskName = Literal["summarization", "extraction", "creative", "logic"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
JudgeName = Literal["all-MiniLM-L6-v2", "roberta-large"]

BUDGET = (
    "how the kept parameters are shared among the layers: uniform, or by outliers (owl), depth (atp), singular values "
    "(spectrum, kmif), or what each does to the model, measured first (harm, measured); auto: harm for hybrid, uniform "
    "for all others and for patterns"
)
BOS = (
    "where the tokens stand that the tokenizer puts before a text (BOS), if it has any: before each window, or before "
    "the first token of the text only, as in papers on Llama"
)
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
COMPUTE = (
    "dtype in which products of many tokens are computed; auto: that of the weights, or float32 where the CPU or GPU "
    "is faster in it, such as a CPU without bfloat16 instructions"
)
KERNEL = (
    "what multiplies by compressed layers: auto (the fastest on this machine), reference (plain torch, which defines "
    "what is computed), or a level of instructions"
)


def _split(value: object) -> object:
    """'a,b,a' as on the command line -> ['a', 'b']."""
    return list(dict.fromkeys(filter(None, map(str.strip, value.split(","))))) if isinstance(value, str) else value


T = TypeVar("T")
Listed = Annotated[tuple[T, ...], BeforeValidator(_split)]


def _place(value: object) -> object:
    """A path with ~ as the home folder; ValueError for what no file can be called."""
    if not isinstance(value, str | Path):
        return value
    if re.search("[\0\ud800-\udfff]", str(value)):  # halves of pairs: how Python reads a name that is not UTF-8
        raise ValueError("a path must be UTF-8 text without null characters")
    return str(expand(value))  # a text: JSON input takes no Path


Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
Place = Annotated[Path, BeforeValidator(_place)]
Positive = Annotated[int, Field(ge=1, le=131072)]
Sparsity = Annotated[float, Field(gt=0, lt=1)]
Minutes = Annotated[float, Field(ge=0, le=10080)]
Steps = Annotated[int, Field(ge=0, le=10**6)]


class Request(BaseModel):
    """Base of all requests: immutable, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class CalibrationSpec(Request):
    """Which text the layers see while their inputs are measured."""

    source: str = Field(
        "auto",
        min_length=1,
        description="wikitext2, embedded, self (the model writes the text), a hub dataset OWNER/NAME[:CONFIG], or a "
        ".txt/.jsonl/.parquet file; auto: embedded for demo, wikitext2 for all others",
    )
    column: str = Field("text", min_length=1, description="column that holds the text")
    samples: int = Field(64, ge=1, le=65536, description="number of windows")
    length: int = Field(512, ge=8, le=131072, description="tokens per window")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the windows' places")
    bos: BosName = Field("each", description=BOS)


class PlanSpec(Request):
    """What is to be compressed and how. Everything that decides the bytes of the result stands here."""

    model_id: Text = Field(min_length=1, description="hub id, folder, .gguf file, or demo")
    revision: str = Field("", description="branch, tag or commit of a hub model")
    method: MethodName = Field("hybrid", description="how a matrix gets smaller")
    sparsity: float = Field(0.5, gt=0, lt=1, description="share of the layers' parameters that is removed")
    pattern: PatternName = Field("unstructured", description="n:m keeps n of every m neighbouring weights in a row")
    rank_share: float = Field(0.1, gt=0, lt=1, description="share of what is kept that goes to factors (hybrid, oats)")
    budget: BudgetName = Field("auto", description=BUDGET)
    values: ValuesName = Field(
        "float", description="how values are stored: float (the model's dtype) or int8 (with a scale for each row)"
    )
    effort: EffortName = Field("fast", description="best: two to three times the time for a smaller error (hybrid)")
    reconstruct_minutes: Minutes = Field(0, description="time for blocks to learn to answer as before; 0: none")
    reconstruct_steps: Steps = Field(0, description="steps of that for every block; 0: as many as the minutes allow")
    heal_minutes: Minutes = Field(0, description="time for the whole model to learn the dense one's answers; 0: none")
    heal_steps: Steps = Field(0, description="steps of that; 0: as many as the minutes allow")
    calibration: CalibrationSpec = CalibrationSpec()
    device: str = Field("auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="dtype of weights and hidden states; auto: the model's own")
    compute_dtype: DtypeName = Field("auto", description=COMPUTE)

    @property
    def rule(self) -> BudgetName:
        """The budget, `auto` resolved."""
        if self.budget != "auto":
            return self.budget
        return "harm" if self.method == "hybrid" and self.pattern == "unstructured" else "uniform"

    @property
    def reconstructs(self) -> bool:
        return bool(self.reconstruct_minutes or self.reconstruct_steps)

    @property
    def heals(self) -> bool:
        return bool(self.heal_minutes or self.heal_steps)

    @model_validator(mode="after")
    def _effort_fits(self) -> "PlanSpec":
        if self.effort == "best" and self.method != "hybrid":
            raise ValueError(f"effort best fits the method hybrid, not {self.method}")
        return self

    @model_validator(mode="after")
    def _pattern_fits(self) -> "PlanSpec":
        if self.pattern == "unstructured":
            return self
        n, m = map(int, self.pattern.split(":"))
        if self.rule != "uniform":
            raise ValueError(f"pattern {self.pattern} fits the budget uniform only, not {self.budget}")
        if self.method not in PATTERNED:
            raise ValueError(f"pattern {self.pattern} fits the methods {', '.join(PATTERNED)}, not {self.method}")
        if self.sparsity != 1 - n / m:
            raise ValueError(f"pattern {self.pattern} fits sparsity {1 - n / m:g} only, not {self.sparsity:g}")
        return self


class CompressSpec(PlanSpec):
    """One compression, and where its result goes."""

    save_path: Place = Field(description="folder for the artifact")
    resume: bool = Field(False, description="go on where a stopped or killed run was")
    force: bool = Field(False, description="start anew; replace an artifact that is already there")


class MeasureSpec(Request):
    """What is measured of a model, and how. `quick` takes a part of everything, which the figures then say."""

    measures: Listed[MeasureName] = Field(
        USUAL, min_length=1, description="of sizes, perplexity, kl, text, speed, word-perplexity, zero-shot"
    )
    quick: bool = Field(False, description="a part of everything: 4 windows, 3 prompts a task, one length of prompt")
    dataset: str = Field(
        "auto",
        min_length=1,
        description="text for perplexity and kl: wikitext2, embedded, a hub dataset OWNER/NAME[:CONFIG], or a "
        ".txt/.jsonl/.parquet file; auto: embedded for demo, wikitext2 for all others",
    )
    text_column: str = Field("text", min_length=1, description="column of the dataset that holds the text")
    context: int = Field(0, ge=0, le=131072, description="tokens per window; 0: 2048 where the model allows it")
    windows: int = Field(0, ge=0, description="windows at most; 0: all, with --quick 4")
    bos: BosName = Field("each", description=BOS)
    batch: int = Field(1, ge=1, le=1024, description="windows that perplexity reads at once")
    tasks: Listed[str] = Field(
        TASKS,
        min_length=1,
        description="prompts for text: of these four, cnn_dailymail, xsum, samsum, or a .jsonl file",
    )
    limit: int = Field(0, ge=0, description="prompts per task at most; 0: all, of hub tasks 20, with --quick 3")
    answer_tokens: int = Field(0, ge=0, le=131072, description="tokens per answer at most; 0: as each prompt says")
    judge: JudgeName = Field("all-MiniLM-L6-v2", description="judge of BERTScore; roberta-large needs the hub")
    prompt_lengths: Listed[Positive] = Field((32, 256, 1024), min_length=1, description="tokens per timed prompt")
    new_tokens: int = Field(64, ge=2, le=131072, description="tokens per timed answer")
    repetitions: int = Field(3, ge=3, le=1000, description="how often each is timed, the sides in turn")
    zero_shot_tasks: Listed[str] = Field(
        ("arc_easy", "hellaswag", "piqa", "winogrande"), min_length=1, description="tasks of lm-eval"
    )
    zero_shot_limit: int = Field(0, ge=0, description="examples per task at most; 0: all, with --quick 50")


class EvaluateSpec(Request):
    """One model to measure, beside its baseline."""

    model_id: Text = Field(min_length=1, description="artifact, hub id, folder, .gguf file, or demo")
    revision: str = Field("", description="branch, tag or commit of a hub model")
    baseline: Text = Field(
        "auto", min_length=1, description="model to compare with; auto: what an artifact was made of; none: alone"
    )
    measuring: MeasureSpec = MeasureSpec()
    device: str = Field("auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="dtype of both sides, but for speed; auto: the measured model's own")
    compute_dtype: DtypeName = Field("auto", description=COMPUTE)
    kernel: str = Field("auto", min_length=1, description=KERNEL)
    save_path: Place | None = Field(None, description="folder for report.json, report.csv and report.html")
    resume: bool = Field(False, description="keep what a stopped evaluation has measured already")
    force: bool = Field(False, description="measure anew; replace a report that is already there")


class StudySpec(Request):
    """One model compressed to several sparsities, each compared with it."""

    model_id: Text = Field(min_length=1, description="hub id, folder, .gguf file, or demo")
    revision: str = Field("", description="branch, tag or commit of a hub model")
    sparsities: Listed[Sparsity] = Field((0.3, 0.5), min_length=1, description="shares that are removed")
    method: MethodName = Field("hybrid", description="how a matrix gets smaller")
    rank_share: float = Field(0.1, gt=0, lt=1, description="share of what is kept that goes to factors (hybrid, oats)")
    budget: BudgetName = Field("auto", description=BUDGET)
    values: ValuesName = Field(
        "float", description="how values are stored: float (the model's dtype) or int8 (with a scale for each row)"
    )
    calibration: CalibrationSpec = CalibrationSpec()
    measuring: MeasureSpec = MeasureSpec()
    device: str = Field("auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="dtype of weights and hidden states; auto: the model's own")
    compute_dtype: DtypeName = Field("auto", description=COMPUTE)
    kernel: str = Field("auto", min_length=1, description=KERNEL)
    save_path: Place = Field(description="folder for the artifacts, their reports and the page study.html")
    resume: bool = Field(False, description="go on where a stopped or killed study was")
    force: bool = Field(False, description="start anew; replace a study that is already there")


class SpectraSpec(Request):
    """The singular values of what a compression has changed."""

    model_id: Text = Field(min_length=1, description="artifact")
    save_path: Place = Field(description="file for the spectra, one JSON line per matrix; existing entries are kept")


class GenerateSpec(Request):
    """How one answer is decoded."""

    max_new_tokens: int = Field(256, ge=1, le=131072, description="tokens at most")
    greedy: bool = Field(False, description="always the likeliest token")
    temperature: float = Field(0.7, gt=0, le=100, description="below 1 sharpens, above 1 flattens")
    top_p: float = Field(0.95, gt=0, le=1, description="smallest set of tokens with this probability mass")
    top_k: int = Field(0, ge=0, description="only the k likeliest tokens; 0: all")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, description="above 1 discourages tokens already there")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the sampler")
    ignore_eos: bool = Field(False, description="go on past the end-of-text token (for timing)")


R = TypeVar("R", bound=Request)


def ask(kind: type[R], **fields: object) -> R:
    """Make a request; a wrong value becomes one sentence that names the field, the value and what fits."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise SpecError(_sentence(error), cli_hint="See --help for valid values.") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # two fields that do not fit each other
        reason = str(first["ctx"]["error"])
        return reason[:1].upper() + reason[1:] + "."
    name = next(part for part in reversed(first["loc"]) if isinstance(part, str))  # a number is a place in a list
    reason = first["msg"].removeprefix("Value error, ")
    field = "--" + name.replace("_", "-")
    return f"{field}: {reason[:1].lower()}{reason[1:]}, got {first['input']!r}."
