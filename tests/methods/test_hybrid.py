"""Hybrid's two least-squares steps, each against its own optimum."""

import pytest
import torch
from problems import inputs, low_rank_plus_sparse, random, stats_of

from lsprism.methods import hybrid
from lsprism.methods.hybrid import Hybrid, refitted
from lsprism.methods.metric import metric_of
from lsprism.reports import LayerBudget

pytestmark = pytest.mark.usefixtures("one_thread")


def loss(metric, lost: torch.Tensor) -> torch.Tensor:
    """[rows] error of every row in the metric."""
    return (lost @ metric.root).square().sum(1)


def test_refitting_never_loses_and_comes_to_the_least_squares_fit(monkeypatch: pytest.MonkeyPatch):
    weight, x = random(6, 20), inputs(20)
    metric = metric_of(x.T @ x)
    mask = random(6, 20, seed=3) > 0
    start = weight * mask
    few = refitted(weight, start, mask, metric)
    assert (loss(metric, weight - few) < loss(metric, weight - start)).all()
    assert (few[~mask] == 0).all() and torch.equal(start, weight * mask)
    monkeypatch.setattr(hybrid, "STEPS", 60)
    many, gram = refitted(weight, start, mask, metric), metric.gram.double()
    for row, places in enumerate(mask):
        wanted = torch.linalg.solve(gram[places][:, places], gram[places] @ weight[row].double())
        assert torch.allclose(many[row, places].double(), wanted, atol=1e-3)


def test_a_row_that_is_fitted_already_stays(monkeypatch: pytest.MonkeyPatch):
    x = inputs(20)
    weight = random(6, 20)
    everything = torch.ones(6, 20, dtype=torch.bool)
    assert torch.equal(refitted(weight, weight, everything, metric_of(x.T @ x)), weight)


def test_the_factors_fit_what_the_sparse_part_leaves():
    """No other factors of that rank go better with the sparse part that was chosen."""
    weight, x = low_rank_plus_sparse(30, 40, rank=2, share=0.2), inputs(40)
    form = Hybrid().compress(weight, stats_of(x), LayerBudget(kept=600, rank=3))
    metric = metric_of(stats_of(x).gram)
    left = weight - form.sparse.dense()
    best = torch.linalg.svdvals((left @ metric.root).double())[3:].square().sum()
    found = loss(metric, left - form.low_rank.left @ form.low_rank.right).sum()
    assert found.item() == pytest.approx(best.item(), rel=1e-3)


def test_a_budget_without_a_rank_is_spent_on_non_zeros():
    weight, x = random(8, 10), inputs(10)
    form = Hybrid().compress(weight, stats_of(x), LayerBudget(kept=17))
    assert form.name == "sparse" and form.kept == 17
