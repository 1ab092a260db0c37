"""What may be asked: frozen requests, checked when made; one schema for the command line, YAML and the form.

A field's description is its help text. Nothing here knows torch: a form can be checked in milliseconds.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lsprism.errors import SpecError

MethodName = Literal["hybrid", "sparsegpt", "wanda", "magnitude", "svd", "svd-plain"]
PatternName = Literal["unstructured", "2:4", "4:8"]
PATTERNED = ("wanda", "sparsegpt", "magnitude")  # methods that can keep n of every m neighbours
BudgetName = Literal["uniform"]
DtypeName = Literal["auto", "bfloat16", "float16", "float32"]


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


class PlanSpec(Request):
    """What is to be compressed and how. Everything that decides the bytes of the result stands here."""

    model_id: str = Field(min_length=1, description="hub id, folder, .gguf file, or demo")
    revision: str = Field("", description="branch, tag or commit of a hub model")
    method: MethodName = Field("hybrid", description="how a matrix gets smaller")
    sparsity: float = Field(0.5, gt=0, lt=1, description="share of the layers' parameters that is removed")
    pattern: PatternName = Field("unstructured", description="n:m keeps n of every m neighbouring weights in a row")
    rank_share: float = Field(0.1, gt=0, lt=1, description="share of the kept parameters given to the factors (hybrid)")
    budget: BudgetName = Field("uniform", description="how the kept parameters are shared among the layers")
    calibration: CalibrationSpec = CalibrationSpec()
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="dtype of weights and hidden states; auto: the model's own")

    @field_validator("model_id", mode="before")
    @classmethod
    def _path_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _pattern_fits(self) -> "PlanSpec":
        if self.pattern == "unstructured":
            return self
        n, m = map(int, self.pattern.split(":"))
        if self.method not in PATTERNED:
            raise ValueError(f"pattern {self.pattern} fits the methods {', '.join(PATTERNED)}, not {self.method}")
        if self.sparsity != 1 - n / m:
            raise ValueError(f"pattern {self.pattern} fits sparsity {1 - n / m:g} only, not {self.sparsity:g}")
        return self


class CompressSpec(PlanSpec):
    """One compression, and where its result goes."""

    save_path: Path = Field(description="folder for the artifact")
    resume: bool = Field(False, description="go on where a stopped or killed run was")
    force: bool = Field(False, description="start anew; replace an artifact that is already there")


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
        raise SpecError(*_sentence(error)) from None


def _sentence(error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    if not first["loc"]:  # two fields that do not fit each other
        reason = str(first["ctx"]["error"])
        return reason[:1].upper() + reason[1:] + ".", "See --help for what fits."
    field = "--" + str(first["loc"][-1]).replace("_", "-")
    return (
        f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}.",
        "See --help for what fits.",
    )
