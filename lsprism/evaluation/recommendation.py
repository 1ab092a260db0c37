"""Recommends one of several compressed models by a simple rule on perplexity and size."""

from collections.abc import Sequence

from lsprism.records.evaluation import EvalReport, Recommendation

TOLERANCE = 1.25  # largest acceptable perplexity, relative to the baseline's


def recommend(reports: Sequence[EvalReport], tolerance: float = TOLERANCE) -> Recommendation:
    """Recommend one of the compressed models; flagged metrics are ignored."""
    rule = (
        f"Of the models with a perplexity of at most {tolerance:g} times the baseline's, choose the one with the fewest"
        " parameters. Flagged perplexities are ignored."
    )
    ratios = {n: ratio for n, report in enumerate(reports) if (ratio := _compute_ratio(report)) is not None}
    if not ratios:
        return Recommendation(rule=rule, choice="", reason="No perplexity with a matching baseline perplexity.")
    good = [n for n, ratio in ratios.items() if ratio <= tolerance]
    if good:
        best = min(good, key=lambda n: _compute_kept_share(reports[n]))
        name = reports[best].compressed.model.label
        return Recommendation(rule=rule, choice=name, reason=_format_reason(reports[best], ratios[best]))
    least = min(ratios, key=ratios.__getitem__)
    name = reports[least].compressed.model.label
    reason = f"No model meets the rule; the closest is {name}: {_format_reason(reports[least], ratios[least])}"
    return Recommendation(rule=rule, choice="", reason=reason)


def _compute_ratio(report: EvalReport) -> float | None:
    if report.perplexity is None or report.baseline_perplexity is None:
        return None
    doubted = any(flag.figure == "perplexity" for flag in report.flags)
    return None if doubted else report.perplexity / report.baseline_perplexity


def _compute_kept_share(report: EvalReport) -> float:
    return (
        report.compressed.sizes.kept_share if report.compressed.sizes else 1 - (report.compressed.model.sparsity or 0)
    )


def _format_reason(report: EvalReport, ratio: float) -> str:
    parts = [f"perplexity {report.perplexity:.2f}, baseline {report.baseline_perplexity:.2f} ({ratio:.2f}x)"]
    if sizes := report.compressed.sizes:
        parts.append(f"{sizes.kept_share:.1%} of the parameters")
    if report.agreement:
        parts.append(f"top-1 agreement {report.agreement.top1:.0%}")
    return ", ".join(parts) + "."
