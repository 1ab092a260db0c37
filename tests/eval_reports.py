"""Handmade evaluation reports for tests."""

from lsprism.records.evaluation import (
    Accuracy,
    EvalReport,
    ModelAnswer,
    ModelInfo,
    ModelReport,
    PromptResult,
    Score,
    TaskReport,
    TextSimilarity,
)
from lsprism.records.metrics import AgreementResult, PerplexityResult, SizeResult, SpeedComparison, SpeedResult


def subject(name: str, **changes) -> ModelInfo:
    dense = {"model_id": name, "base_model": name, "kind": "folder", "fingerprint": name, "dtype": "bfloat16"}
    return ModelInfo(**{**dense, "device": "cpu", **changes})


def likelihood(value: float, **changes) -> PerplexityResult:
    cut = {"tokens": 4094, "windows": 2, "of": 9, "context": 2048, "text": "WikiText-2 raw (test)", "bos": False}
    return PerplexityResult(**{"value": value, "nll": 1.0, **cut, "dtype": "bfloat16", "device": "cpu", **changes})


def sizes(kept: int, stored: int) -> SizeResult:
    return SizeResult(
        kept_parameters=kept, model_parameters=100, stored_bytes=stored, resident_bytes=stored, dtype="bfloat16"
    )


def speed(model: str, runs: list[float], dtype: str = "bfloat16", **changes) -> SpeedResult:
    fixed = {"prompt_tokens": 32, "new_tokens": 64, "first_token_runs_s": [0.1] * len(runs), "device": "cpu"}
    return SpeedResult(**{"model": model, "tokens_per_s_runs": runs, "dtype": dtype, "threads": 2, **fixed, **changes})


def agreement(kl: float, top1: float = 0.8) -> AgreementResult:
    cut = {"tokens": 4094, "windows": 2, "of": 9, "context": 2048, "text": "WikiText-2 raw (test)", "bos": False}
    return AgreementResult(kl=kl, top1=top1, **cut, baseline_dtype="bfloat16", dtype="bfloat16", device="cpu")


def task(similarity: float, text: str = "an answer") -> TaskReport:
    said = ModelAnswer(text=text, tokens=(1, 2), reason="eos")
    keys = ("bertscore_f1", "rougeL", "similarity")
    scores = {
        key: Score(metric=key, protocol=f"{key}.", values=[similarity], mean=similarity, notes=[]) for key in keys
    }
    row = PromptResult(
        id="1", prompt="Say it.", reference=None, answer=said, right=True, baseline=said, baseline_right=False
    )
    return TaskReport(
        task="logic (1 prompt)",
        origin="a test",
        protocol="Greedy.",
        rows=[row],
        correct=Accuracy(right=1, checkable=1),
        baseline_correct=Accuracy(right=0, checkable=1),
        against_baseline=TextSimilarity(ids=["1"], scores=scores),
        against_reference=None,
        baseline_against_reference=None,
        notes=[],
    )


def report(name: str = "wanda", sparsity: float = 0.5, perplexity: float = 24.0, **changes) -> EvalReport:
    """A model `name` at `sparsity`, with the baseline 'dense' of perplexity 20."""
    model = subject(f"{name}-{sparsity:g}", method=name, sparsity=sparsity, packed_layers=7, calibration="other text")
    kept = round(100 * (1 - sparsity))
    own = ModelReport(
        model=model,
        sizes=sizes(kept, 2 * kept),
        likelihood=likelihood(perplexity),
        speeds=[speed(name, [30.0, 33.0, 36.0])],
    )
    base = ModelReport(
        model=subject("dense"),
        sizes=sizes(100, 200),
        likelihood=likelihood(20.0),
        speeds=[speed("dense", [30.0, 30.0, 30.0], "float16")],
    )
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {"torch": "2.13.0", "gpu": None},
        "compressed": own,
        "baseline": base,
        "agreement": agreement(0.2),
        "speedups": [SpeedComparison(baseline=base.speeds[0], compressed=own.speeds[0])],
        "tasks": [task(0.7)],
    }
    return EvalReport(**{**fields, **changes})


def changed(original: EvalReport, side: str, **figures) -> EvalReport:
    """The report with other metrics for 'compressed' or 'baseline'."""
    return original.model_copy(update={side: getattr(original, side).model_copy(update=figures)})
