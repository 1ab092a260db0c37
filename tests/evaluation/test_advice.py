"""The advice follows its own rule."""

from eval_reports import changed, report

from lsprism.evaluation.advice import TOLERANCE, advise
from lsprism.outcomes import Flag

LITTLE, MUCH = report(sparsity=0.3, perplexity=21.0), report(sparsity=0.5, perplexity=24.0)


def test_the_smallest_of_those_that_are_good_enough():
    assert advise([LITTLE, MUCH]).choice == "wanda 0.5"
    assert advise([LITTLE, report(sparsity=0.5, perplexity=26.0)]).choice == "wanda 0.3"


def test_exactly_at_the_limit_passes():
    assert advise([report(perplexity=20.0 * TOLERANCE)]).choice == "wanda 0.5"


def test_where_none_passes_the_closest_is_named_but_not_chosen():
    advice = advise([report(sparsity=0.3, perplexity=30.0), report(sparsity=0.5, perplexity=40.0)])
    assert advice.choice == ""
    assert "None passes; the closest is wanda 0.3: perplexity 30.00 against 20.00 (1.50 times)" in advice.reason


def test_a_flagged_perplexity_decides_nothing():
    flagged = MUCH.model_copy(update={"flags": [Flag(figure="perplexity", side="model", reason="odd")]})
    assert advise([LITTLE, flagged]).choice == "wanda 0.3"
    assert advise([flagged]).choice == ""


def test_without_perplexity_nothing_is_advised():
    advice = advise([changed(MUCH, "compressed", likelihood=None)])
    assert advice.choice == ""
    assert "No perplexity" in advice.reason


def test_the_rule_holds_its_threshold():
    assert "at most 1.25 times" in advise([MUCH]).rule
    assert "at most 2 times" in advise([MUCH], tolerance=2).rule
