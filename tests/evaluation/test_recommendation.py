"""The recommendation follows its rule."""

from eval_reports import changed, report

from lsprism.evaluation.recommendation import TOLERANCE, recommend
from lsprism.records.evaluation import SanityFlag

LITTLE, MUCH = report(sparsity=0.3, perplexity=21.0), report(sparsity=0.5, perplexity=24.0)


def test_the_smallest_acceptable_model_is_recommended():
    assert recommend([LITTLE, MUCH]).choice == "wanda 0.5"
    assert recommend([LITTLE, report(sparsity=0.5, perplexity=26.0)]).choice == "wanda 0.3"


def test_a_perplexity_exactly_at_the_limit_is_accepted():
    assert recommend([report(perplexity=20.0 * TOLERANCE)]).choice == "wanda 0.5"


def test_if_no_model_is_accepted_the_closest_is_named():
    advice = recommend([report(sparsity=0.3, perplexity=30.0), report(sparsity=0.5, perplexity=40.0)])
    assert advice.choice == ""
    assert "No model meets the rule; the closest is wanda 0.3: perplexity 30.00, baseline 20.00 (1.50x)" in (
        advice.reason
    )


def test_a_flagged_perplexity_is_ignored():
    flagged = MUCH.model_copy(update={"flags": [SanityFlag(figure="perplexity", side="model", reason="odd")]})
    assert recommend([LITTLE, flagged]).choice == "wanda 0.3"
    assert recommend([flagged]).choice == ""


def test_without_perplexity_nothing_is_recommended():
    advice = recommend([changed(MUCH, "compressed", likelihood=None)])
    assert advice.choice == ""
    assert "No perplexity" in advice.reason


def test_the_rule_states_its_threshold():
    assert "at most 1.25 times" in recommend([MUCH]).rule
    assert "at most 2 times" in recommend([MUCH], tolerance=2).rule
