"""Sanity checks that flag implausible or misleading metrics, each with its reason.

Example: one sentence repeated fifty times gives a perplexity of 1.10.
"""

from collections.abc import Iterator
from typing import Literal

from lsprism.figures import PerplexityFigure, SpeedComparison
from lsprism.outcomes import Closeness, EvalReport, Flag, SideReport

LEAST_PERPLEXITY = 2.0  # lower values on real text mean a bug or a memorized text
BETTER = 0.98  # a ratio to the baseline's perplexity down to this may be chance
FASTER = 1.1  # a speed ratio above this without a change of format or dtype is not noise
SPREAD = 1.5  # largest plausible ratio between the repetitions of one comparison
SAME = 1 - 1e-9
CLOSE = {"similarity", "bertscore_f1", "rougeL", "token_agreement"}


def flags(report: EvalReport) -> list[Flag]:
    """All flags of a report."""
    return [*_likelihoods(report), *_agreements(report), *_speeds(report), *_sizes(report)]


def _likelihoods(report: EvalReport) -> Iterator[Flag]:
    sides: dict[Literal["model", "baseline"], SideReport | None] = {
        "model": report.compressed,
        "baseline": report.baseline,
    }
    for name, side in sides.items():
        if side is None or side.likelihood is None:
            continue
        if side.likelihood.value < LEAST_PERPLEXITY:
            yield _flag("perplexity", f"below {LEAST_PERPLEXITY:g}: no model predicts unseen text so well", name)
        if side.likelihood.text == report.compressed.model.calibration:
            yield _flag("perplexity", f"evaluated on the calibration text, {side.likelihood.text}", name)
    ours = report.compressed.likelihood
    theirs = report.baseline.likelihood if report.baseline else None
    if ours and theirs and _differ(report):
        if ours.value < BETTER * theirs.value:
            yield _flag("perplexity", "lower than its base model's")
        if not _same_protocol(ours, theirs):
            yield _flag("perplexity", "protocol differs from the baseline's")


def _agreements(report: EvalReport) -> Iterator[Flag]:
    if not _differ(report):
        return
    if report.agreement is not None and report.agreement.kl == 0:
        yield _flag("kl", "exactly 0 between two different models")
    for task in report.tasks:
        yield from _too_close(task.task, task.against_baseline)


def _too_close(task: str, closeness: Closeness | None) -> Iterator[Flag]:
    for name, score in (closeness.scores if closeness else {}).items():
        if name in CLOSE and score.mean is not None and score.mean >= SAME:
            yield _flag(name, f"exactly 1 between two different models in {task}")


def _speeds(report: EvalReport) -> Iterator[Flag]:
    for comparison in report.speedups:
        if comparison.ratio > FASTER and not _changed(report, comparison):
            yield _flag("speedup", "faster although neither format nor dtype changed")
        if comparison.highest > SPREAD * comparison.lowest:
            low, high = comparison.lowest, comparison.highest
            prompt = comparison.baseline.prompt_tokens
            reason = f"noisy: {low:.2f}x to {high:.2f}x with a prompt of {prompt} tokens"
            yield _flag("speedup", reason)


def _sizes(report: EvalReport) -> Iterator[Flag]:
    ours = report.compressed.sizes
    theirs = report.baseline.sizes if report.baseline else None
    if ours and theirs and report.compressed.model.packed_layers and ours.stored_bytes >= theirs.stored_bytes:
        yield _flag("stored", "not smaller on disk than the baseline")


def _changed(report: EvalReport, comparison: SpeedComparison) -> bool:
    return report.compressed.model.packed_layers > 0 or comparison.baseline.dtype != comparison.compressed.dtype


def _differ(report: EvalReport) -> bool:
    return report.baseline is not None and report.baseline.model.fingerprint != report.compressed.model.fingerprint


def _same_protocol(a: PerplexityFigure, b: PerplexityFigure) -> bool:
    fields = ("text", "context", "windows", "of", "bos", "begins", "dtype")
    return all(getattr(a, name) == getattr(b, name) for name in fields)


def _flag(figure: str, reason: str, side: Literal["model", "baseline"] = "model") -> Flag:
    return Flag(figure=figure, side=side, reason=reason)
