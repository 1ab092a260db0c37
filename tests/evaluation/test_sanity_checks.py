"""Implausible metrics are flagged, ordinary ones are not."""

import pytest
from eval_reports import agreement, changed, likelihood, report, sizes, speed, subject, task

from lsprism.evaluation.sanity_checks import find_flags
from lsprism.records.metrics import SpeedComparison


def reasons(made) -> dict[str, str]:
    return {flag.figure: flag.reason for flag in find_flags(made)}


def test_an_ordinary_report_has_no_flags():
    assert find_flags(report()) == []


def test_a_perplexity_below_two_is_flagged():
    (flag,) = find_flags(changed(report(), "compressed", likelihood=likelihood(1.1)))[:1]
    assert (flag.figure, flag.side) == ("perplexity", "model")
    assert "below 2" in flag.reason
    (flag,) = find_flags(changed(report(), "baseline", likelihood=likelihood(1.9)))
    assert flag.side == "baseline"


def test_clearly_better_than_the_base_model_is_flagged():
    assert "lower than" in reasons(report(perplexity=19.0))["perplexity"]
    assert find_flags(report(perplexity=19.9)) == []


def test_perplexities_of_different_protocols_are_flagged():
    assert (
        "protocol differs"
        in reasons(changed(report(), "compressed", likelihood=likelihood(24.0, windows=1)))["perplexity"]
    )


def test_evaluation_on_the_calibration_text_is_flagged():
    seen = subject("wanda-0.5", method="wanda", sparsity=0.5, packed_layers=7, calibration="WikiText-2 raw (test)")
    assert "calibration text" in reasons(changed(report(), "compressed", model=seen))["perplexity"]


def test_exact_agreement_of_different_models_is_flagged():
    assert "exactly 0" in reasons(report(agreement=agreement(0.0, 1.0)))["kl"]
    found = reasons(report(tasks=[task(1.0)]))
    assert found.keys() == {"similarity", "bertscore_f1", "rougeL"}


def test_a_model_compared_with_itself_is_not_flagged():
    same = report(agreement=agreement(0.0, 1.0), tasks=[task(1.0)], speedups=[])
    same = changed(same, "compressed", model=same.baseline.model, likelihood=likelihood(20.0), sizes=sizes(100, 200))
    assert find_flags(same) == []


def test_a_speedup_without_a_change_is_flagged():
    pair = SpeedComparison(baseline=speed("a", [30.0] * 3), compressed=speed("b", [60.0] * 3))
    unchanged = changed(report(speedups=[pair]), "compressed", model=subject("b"))
    assert "neither format nor dtype" in reasons(unchanged)["speedup"]
    assert "speedup" not in reasons(report(speedups=[pair]))


def test_a_noisy_comparison_is_flagged():
    pair = SpeedComparison(baseline=speed("a", [30.0] * 3), compressed=speed("b", [20.0, 30.0, 40.0]))
    assert "0.67x to 1.33x" in reasons(report(speedups=[pair]))["speedup"]


def test_a_compressed_model_that_is_not_smaller_is_flagged():
    assert "not smaller" in reasons(changed(report(), "compressed", sizes=sizes(50, 200)))["stored"]


@pytest.mark.parametrize("missing", ["sizes", "likelihood", "speeds"])
def test_missing_metrics_are_not_flagged(missing):
    empty = {"speeds": [], "sizes": None, "likelihood": None}[missing]
    made = changed(report(agreement=None, tasks=[], speedups=[]), "compressed", **{missing: empty})
    assert find_flags(made) == []
