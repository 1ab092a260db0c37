"""Sanity checks that flag implausible or misleading metrics, each with its reason.

Example: one sentence repeated fifty times gives a perplexity of 1.10.
"""

from collections.abc import Iterator
from typing import Literal

from lsprism.records.evaluation import EvalReport, ModelReport, SanityFlag, TextSimilarity
from lsprism.records.metrics import PerplexityResult, SpeedComparison

LEAST_PERPLEXITY = 2.0  # lower values on real text mean a bug or a memorized text
BETTER = 0.98  # a ratio to the baseline's perplexity down to this may be chance
FASTER = 1.1  # a speed ratio above this without a change of format or dtype is not noise
SPREAD = 1.5  # largest plausible ratio between the repetitions of one comparison
SAME = 1 - 1e-9
CLOSE = {"similarity", "bertscore_f1", "rougeL", "token_agreement"}


def find_flags(report: EvalReport) -> list[SanityFlag]:
    """All flags of a report."""
    return [*_check_likelihoods(report), *_check_agreements(report), *_check_speeds(report), *_check_sizes(report)]


def _check_likelihoods(report: EvalReport) -> Iterator[SanityFlag]:
    sides: dict[Literal["model", "baseline"], ModelReport | None] = {
        "model": report.compressed,
        "baseline": report.baseline,
    }
    for name, side in sides.items():
        if side is None or side.likelihood is None:
            continue
        if side.likelihood.value < LEAST_PERPLEXITY:
            yield _make_flag("perplexity", f"below {LEAST_PERPLEXITY:g}: no model predicts unseen text so well", name)
        if side.likelihood.text == report.compressed.model.calibration:
            yield _make_flag("perplexity", f"evaluated on the calibration text, {side.likelihood.text}", name)
    ours = report.compressed.likelihood
    theirs = report.baseline.likelihood if report.baseline else None
    if ours and theirs and _has_other_weights(report):
        if ours.value < BETTER * theirs.value:
            yield _make_flag("perplexity", "lower than its base model's")
        if not _has_same_protocol(ours, theirs):
            yield _make_flag("perplexity", "protocol differs from the baseline's")


def _check_agreements(report: EvalReport) -> Iterator[SanityFlag]:
    if not _has_other_weights(report):
        return
    if report.agreement is not None and report.agreement.kl == 0:
        yield _make_flag("kl", "exactly 0 between two different models")
    for task in report.tasks:
        yield from _check_similarity(task.task, task.against_baseline)


def _check_similarity(task: str, closeness: TextSimilarity | None) -> Iterator[SanityFlag]:
    for name, score in (closeness.scores if closeness else {}).items():
        if name in CLOSE and score.mean is not None and score.mean >= SAME:
            yield _make_flag(name, f"exactly 1 between two different models in {task}")


def _check_speeds(report: EvalReport) -> Iterator[SanityFlag]:
    for comparison in report.speedups:
        if comparison.ratio > FASTER and not _is_changed(report, comparison):
            yield _make_flag("speedup", "faster although neither format nor dtype changed")
        if comparison.highest > SPREAD * comparison.lowest:
            low, high = comparison.lowest, comparison.highest
            prompt = comparison.baseline.prompt_tokens
            reason = f"noisy: {low:.2f}x to {high:.2f}x with a prompt of {prompt} tokens"
            yield _make_flag("speedup", reason)


def _check_sizes(report: EvalReport) -> Iterator[SanityFlag]:
    ours = report.compressed.sizes
    theirs = report.baseline.sizes if report.baseline else None
    if ours and theirs and report.compressed.model.packed_layers and ours.stored_bytes >= theirs.stored_bytes:
        yield _make_flag("stored", "not smaller on disk than the baseline")


def _is_changed(report: EvalReport, comparison: SpeedComparison) -> bool:
    return report.compressed.model.packed_layers > 0 or comparison.baseline.dtype != comparison.compressed.dtype


def _has_other_weights(report: EvalReport) -> bool:
    return report.baseline is not None and report.baseline.model.fingerprint != report.compressed.model.fingerprint


def _has_same_protocol(a: PerplexityResult, b: PerplexityResult) -> bool:
    fields = ("text", "context", "windows", "of", "bos", "begins", "dtype")
    return all(getattr(a, name) == getattr(b, name) for name in fields)


def _make_flag(figure: str, reason: str, side: Literal["model", "baseline"] = "model") -> SanityFlag:
    return SanityFlag(figure=figure, side=side, reason=reason)
