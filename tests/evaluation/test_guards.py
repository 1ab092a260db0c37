"""What is too good to be true is flagged; what is ordinary is not."""

import pytest
from eval_reports import agreement, changed, likelihood, report, sizes, speed, subject, task

from lsprism.evaluation.guards import flags
from lsprism.figures import SpeedComparison


def reasons(made) -> dict[str, str]:
    return {flag.figure: flag.reason for flag in flags(made)}


def test_an_ordinary_report_has_no_flag():
    assert flags(report()) == []


def test_a_perplexity_below_two_is_no_language_model():
    (flag,) = flags(changed(report(), "compressed", likelihood=likelihood(1.1)))[:1]
    assert (flag.figure, flag.side) == ("perplexity", "model")
    assert "below 2" in flag.reason
    (flag,) = flags(changed(report(), "baseline", likelihood=likelihood(1.9)))
    assert flag.side == "baseline"


def test_better_than_its_own_base_model_is_doubted_but_a_hair_is_not():
    assert "lower than" in reasons(report(perplexity=19.0))["perplexity"]
    assert flags(report(perplexity=19.9)) == []


def test_two_perplexities_of_different_protocols_do_not_stand_side_by_side():
    assert (
        "as the baseline's was"
        in reasons(changed(report(), "compressed", likelihood=likelihood(24.0, windows=1)))["perplexity"]
    )


def test_the_text_of_the_calibration_is_no_text_to_measure_on():
    seen = subject("wanda-0.5", method="wanda", sparsity=0.5, packed_layers=7, calibration="WikiText-2 raw (test)")
    assert "calibrated on" in reasons(changed(report(), "compressed", model=seen))["perplexity"]


def test_different_models_that_agree_exactly_are_doubted():
    assert "exactly 0" in reasons(report(agreement=agreement(0.0, 1.0)))["kl"]
    found = reasons(report(tasks=[task(1.0)]))
    assert found.keys() == {"similarity", "bertscore_f1", "rougeL"}


def test_a_model_against_itself_may_agree_exactly():
    same = report(agreement=agreement(0.0, 1.0), tasks=[task(1.0)], speedups=[])
    same = changed(same, "compressed", model=same.baseline.model, likelihood=likelihood(20.0), sizes=sizes(100, 200))
    assert flags(same) == []


def test_faster_with_nothing_changed_is_doubted():
    pair = SpeedComparison(baseline=speed("a", [30.0] * 3), compressed=speed("b", [60.0] * 3))
    unchanged = changed(report(speedups=[pair]), "compressed", model=subject("b"))
    assert "neither form nor dtype" in reasons(unchanged)["speedup"]
    assert "speedup" not in reasons(report(speedups=[pair]))


def test_a_noisy_comparison_says_so():
    pair = SpeedComparison(baseline=speed("a", [30.0] * 3), compressed=speed("b", [20.0, 30.0, 40.0]))
    assert "0.67x and 1.33x" in reasons(report(speedups=[pair]))["speedup"]


def test_compressed_and_no_smaller_is_doubted():
    assert "no smaller" in reasons(changed(report(), "compressed", sizes=sizes(50, 200)))["stored"]


@pytest.mark.parametrize("missing", ["sizes", "likelihood", "speeds"])
def test_what_was_not_measured_is_not_judged(missing):
    empty = {"speeds": [], "sizes": None, "likelihood": None}[missing]
    made = changed(report(agreement=None, tasks=[], speedups=[]), "compressed", **{missing: empty})
    assert flags(made) == []
