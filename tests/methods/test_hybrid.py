"""Hybrid with effort fast and best: its factors, its error, and its robustness."""

import pytest
import torch
from matrices import inputs, low_rank_plus_sparse, output_error, random, root_of, stats_of
from test_methods import HARD, budget_for

from lsprism.methods import METHODS, get_method
from lsprism.methods.gram import factorize_gram
from lsprism.methods.hybrid import Hybrid
from lsprism.records.model_plan import LayerBudget

pytestmark = pytest.mark.usefixtures("one_thread")
both = pytest.mark.parametrize("method", [Hybrid(), Hybrid(best=True)], ids=["fast", "best"])


@both
def test_the_factors_are_optimal_for_the_sparse_part(method):
    """No other factors of that rank have a smaller error with this sparse part."""
    weight, x = low_rank_plus_sparse(30, 40, rank=2, share=0.2), inputs(40)
    form = method.compress(weight, stats_of(x), LayerBudget(kept=600, rank=3))
    metric = factorize_gram(stats_of(x).gram)
    left = weight - form.sparse.to_dense()
    best = torch.linalg.svdvals((left @ root_of(metric)).double())[3:].square().sum()
    found = ((left - form.low_rank.left @ form.low_rank.right) @ root_of(metric)).square().sum()
    assert found.item() == pytest.approx(best.item(), rel=1e-3)


@both
def test_a_budget_without_a_rank_is_spent_on_non_zeros(method):
    weight, x = random(8, 10), inputs(10)
    form = method.compress(weight, stats_of(x), LayerBudget(kept=17))
    assert form.name == "sparse" and form.kept == 17


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (96, 200)], ids=str)
def test_effort_best_reduces_the_error(shape, share):
    weight, x = low_rank_plus_sparse(*shape, rank=2, share=0.2), inputs(shape[1], tokens=2000)
    budget = budget_for("hybrid", weight, round(share * weight.numel()))
    fast, best = (Hybrid(best=best).compress(weight, stats_of(x), budget) for best in (False, True))
    assert (best.kept, best.rank) == (fast.kept, fast.rank)
    assert output_error(weight, best, x) < 0.97 * output_error(weight, fast, x)


@pytest.mark.parametrize("case", HARD)
def test_effort_best_supports_poor_inputs(case):
    weight, x = HARD[case]
    budget = budget_for("hybrid", weight, round(0.6 * weight.numel()))
    form = Hybrid(best=True).compress(weight, stats_of(x), budget)
    assert (form.kept, form.rank) == (budget.kept, budget.rank) and torch.isfinite(form.to_dense()).all()
    if x.any() and weight.any():
        assert output_error(weight, form, x) < 1


@both
def test_the_same_call_gives_the_same_bytes_and_changes_nothing(method):
    weight, stats = random(24, 40), stats_of(inputs(40))
    before, budget = (weight.clone(), stats.metric.gram.clone()), budget_for("hybrid", weight, 480)
    once, twice = (method.compress(weight, stats, budget).get_tensors() for _ in range(2))
    assert all(torch.equal(once[part], twice[part]) for part in once)
    assert torch.equal(weight, before[0]) and torch.equal(stats.metric.gram, before[1])


def test_effort_chooses_the_method():
    assert get_method("hybrid", "fast") is METHODS["hybrid"] and get_method("wanda", "fast") is METHODS["wanda"]
    assert get_method("hybrid", "best").best
