"""Keyword arguments of the public functions, for editors and type checkers: the fields of the specs and what they take.

Everything is optional; each docstring lists the defaults. What a setting means stands in specs.py, and in the help of
the command of the same name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from lsprism.records.model_plan import ValuesName
from lsprism.specs import (
    BosName,
    CalibrationSpec,
    DtypeName,
    EffortName,
    JudgeName,
    MeasureSpec,
    PatternName,
)


class CalibrationSettings(TypedDict, total=False):
    """source="auto", column="text", samples=64, length=512, seed=0, bos="each"."""

    source: str
    column: str
    samples: int
    length: int
    seed: int
    bos: BosName


class PlanSettings(TypedDict, total=False):
    """revision="", method="hybrid", sparsity=0.5, pattern="unstructured", rank_share=0.1, allocation="auto",
    values="float", effort="fast", reconstruct_minutes=0, reconstruct_steps=0, heal_minutes=0, heal_steps=0,
    calibration={}, device="auto", dtype="auto", compute_dtype="auto"."""

    revision: str
    method: str
    sparsity: float
    pattern: PatternName
    rank_share: float
    allocation: str
    values: ValuesName
    effort: EffortName
    reconstruct_minutes: float
    reconstruct_steps: int
    heal_minutes: float
    heal_steps: int
    calibration: CalibrationSettings | CalibrationSpec
    device: str
    dtype: DtypeName
    compute_dtype: DtypeName


class CompressSettings(PlanSettings, total=False):
    """resume=False, force=False, and all of PlanSettings."""

    resume: bool
    force: bool


class StatsSettings(TypedDict, total=False):
    """revision="", calibration={}, device="auto", dtype="auto", compute_dtype="auto"."""

    revision: str
    calibration: CalibrationSettings | CalibrationSpec
    device: str
    dtype: DtypeName
    compute_dtype: DtypeName


class MeasureSettings(TypedDict, total=False):
    """measures=("sizes", "perplexity", "kl", "text", "speed"), quick=False, dataset="auto", text_column="text",
    context=0, windows=0, bos="each", batch=1, tasks=("summarization", "extraction", "creative", "logic"), limit=0,
    answer_tokens=0, judge="all-MiniLM-L6-v2", prompt_lengths=(32, 256, 1024), new_tokens=64, repetitions=3,
    zero_shot_tasks=("arc_easy", "hellaswag", "piqa", "winogrande"), zero_shot_limit=0. A list may also be one text,
    with commas."""

    measures: Sequence[str] | str
    quick: bool
    dataset: str
    text_column: str
    context: int
    windows: int
    bos: BosName
    batch: int
    tasks: Sequence[str] | str
    limit: int
    answer_tokens: int
    judge: JudgeName
    prompt_lengths: Sequence[int] | str
    new_tokens: int
    repetitions: int
    zero_shot_tasks: Sequence[str] | str
    zero_shot_limit: int


class EvaluateSettings(TypedDict, total=False):
    """revision="", baseline="auto", measuring={}, device="auto", dtype="auto", compute_dtype="auto", kernel="auto",
    save_path=None, resume=False, force=False."""

    revision: str
    baseline: str | Path
    measuring: MeasureSettings | MeasureSpec
    device: str
    dtype: DtypeName
    compute_dtype: DtypeName
    kernel: str
    save_path: str | Path | None
    resume: bool
    force: bool


class SweepSettings(TypedDict, total=False):
    """revision="", sparsities=(0.3, 0.5), method="hybrid", rank_share=0.1, allocation="auto", values="float",
    calibration={}, measuring={}, device="auto", dtype="auto", compute_dtype="auto", kernel="auto", resume=False,
    force=False."""

    revision: str
    sparsities: Sequence[float] | str
    method: str
    rank_share: float
    allocation: str
    values: ValuesName
    calibration: CalibrationSettings | CalibrationSpec
    measuring: MeasureSettings | MeasureSpec
    device: str
    dtype: DtypeName
    compute_dtype: DtypeName
    kernel: str
    resume: bool
    force: bool


class GenerateSettings(TypedDict, total=False):
    """max_new_tokens=256, greedy=False, temperature=0.7, top_p=0.95, top_k=0, repetition_penalty=1.0, seed=0,
    ignore_eos=False."""

    max_new_tokens: int
    greedy: bool
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    ignore_eos: bool
