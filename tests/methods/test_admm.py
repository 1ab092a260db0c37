"""ADMM: joint optimization of mask, values and factors."""

from copy import deepcopy

import pytest
import torch
from matrices import inputs, low_rank_plus_sparse, random, root_of, stats_of

from lsprism.methods import admm
from lsprism.methods.admm import optimize_jointly
from lsprism.methods.gram import factorize_gram
from lsprism.methods.hybrid import prune_with_low_rank
from lsprism.methods.refit import SparseLowRankFit, refit
from lsprism.records.model_plan import LayerBudget

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(rows: int, columns: int, kept: int, rank: int):
    weight = low_rank_plus_sparse(rows, columns, rank=2, share=0.2)
    stats = stats_of(inputs(columns, tokens=2000))
    metric = stats.metric
    budget = LayerBudget(kept=kept + rank * (rows + columns), rank=rank)
    return weight, metric, prune_with_low_rank(weight, stats.norms, metric, budget)


def loss(weight: torch.Tensor, parts: SparseLowRankFit, metric) -> float:
    return ((weight - parts.sparse - parts.low_rank) @ root_of(metric)).norm().item()


@pytest.mark.parametrize("rank", [0, 3])
def test_the_mask_changes_but_not_its_size(rank):
    weight, metric, start = problem(40, 60, 1200, rank)
    found = optimize_jointly(weight, start, metric)
    assert found.mask.sum() == start.mask.sum() == 1200 and found.rank == rank
    assert (found.mask != start.mask).any() and (found.sparse[~found.mask] == 0).all()


@pytest.mark.parametrize("rank", [0, 3])
def test_the_new_mask_has_a_smaller_loss(rank):
    weight, metric, start = problem(40, 60, 1200, rank)
    before = refit(weight, deepcopy(start), metric, 4, 20)
    after = refit(weight, optimize_jointly(weight, start, metric), metric, 4, 20)
    assert loss(weight, after, metric) < 0.97 * loss(weight, before, metric)


def test_the_new_mask_of_a_pattern_has_a_smaller_loss():
    weight, metric, _ = problem(40, 60, 1200, 0)
    norms, budget = metric.gram.diagonal().sqrt(), LayerBudget(kept=1200, pattern=(2, 4))
    start = prune_with_low_rank(weight, norms, metric, budget)
    found = optimize_jointly(weight, start, metric, budget.pattern)
    assert (found.mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
    before, after = (loss(weight, refit(weight, deepcopy(p), metric, 4, 20), metric) for p in (start, found))
    assert after < before


def test_an_exact_fit_is_a_fixed_point():
    """Without an error, the multipliers are zero."""
    _, metric, start = problem(24, 40, 480, 2)
    exact = start.sparse + start.low_rank
    assert loss(exact, optimize_jointly(exact, start, metric), metric) < 1e-3 * loss(exact * 2, start, metric)


def test_more_steps_reduce_the_loss(monkeypatch: pytest.MonkeyPatch):
    weight, metric, start = problem(64, 96, 3000, 3)
    losses = []
    for steps in (12, 60, 240):
        monkeypatch.setattr(admm, "STEPS", steps)
        losses.append(loss(weight, refit(weight, optimize_jointly(weight, start, metric), metric, 2, 12), metric))
    assert losses == sorted(losses, reverse=True)


def test_a_full_mask_converges_to_the_weight():
    weight, x = random(12, 16), inputs(16)
    metric = factorize_gram(x.T @ x)
    everything = torch.ones(12, 16, dtype=torch.bool)
    start = SparseLowRankFit(weight * 0.5, everything, weight.new_zeros(12, 0), weight.new_zeros(0, 16))
    assert torch.allclose(optimize_jointly(weight, start, metric).sparse, weight, atol=1e-3)
