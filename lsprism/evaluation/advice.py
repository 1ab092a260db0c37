"""Conservative or aggressive? A rule that anybody can follow on the figures, and what it says of them."""

from collections.abc import Sequence

from lsprism.outcomes import Advice, EvalReport

TOLERANCE = 1.25  # of the baseline's perplexity


def advise(reports: Sequence[EvalReport], tolerance: float = TOLERANCE) -> Advice:
    """Which of the compressed models to take; figures that are flagged decide nothing."""
    rule = (
        f"Of the models whose perplexity is at most {tolerance:g} times the baseline's, the one that keeps the fewest"
        " parameters; a flagged perplexity does not count."
    )
    ratios = {n: ratio for n, report in enumerate(reports) if (ratio := _ratio(report)) is not None}
    if not ratios:
        return Advice(
            rule=rule, choice="", reason="No perplexity was measured beside the baseline's under one protocol."
        )
    good = [n for n, ratio in ratios.items() if ratio <= tolerance]
    if good:
        best = min(good, key=lambda n: _kept(reports[n]))
        name = reports[best].compressed.model.label
        return Advice(rule=rule, choice=name, reason=_reason(reports[best], ratios[best]))
    least = min(ratios, key=ratios.__getitem__)
    name = reports[least].compressed.model.label
    reason = f"None passes; the closest is {name}: {_reason(reports[least], ratios[least])}"
    return Advice(rule=rule, choice="", reason=reason)


def _ratio(report: EvalReport) -> float | None:
    if report.perplexity is None or report.baseline_perplexity is None:
        return None
    doubted = any(flag.figure == "perplexity" for flag in report.flags)
    return None if doubted else report.perplexity / report.baseline_perplexity


def _kept(report: EvalReport) -> float:
    return (
        report.compressed.sizes.kept_share if report.compressed.sizes else 1 - (report.compressed.model.sparsity or 0)
    )


def _reason(report: EvalReport, ratio: float) -> str:
    parts = [f"perplexity {report.perplexity:.2f} against {report.baseline_perplexity:.2f} ({ratio:.2f} times)"]
    if sizes := report.compressed.sizes:
        parts.append(f"{sizes.kept_share:.1%} of the parameters kept")
    if report.agreement:
        parts.append(f"the same next token at {report.agreement.top1:.0%} of all places")
    return ", ".join(parts) + "."
