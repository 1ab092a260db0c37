"""Each half step of the refit reaches its optimum, and the loss never increases."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import inputs, random, root_of
from test_properties import problems

from lsprism.methods.gram import factorize_gram
from lsprism.methods.masks import make_top_mask
from lsprism.methods.refit import SparseLowRankFit, refit, refit_factors, refit_values

pytestmark = pytest.mark.usefixtures("one_thread")


def loss(metric, lost: torch.Tensor) -> torch.Tensor:
    """[rows] weighted error of every row."""
    return (lost.double() @ root_of(metric).double()).square().sum(1)


def test_refitting_converges_to_the_least_squares_fit():
    weight, x = random(6, 20), inputs(20)
    metric = factorize_gram(x.T @ x)
    mask = random(6, 20, seed=3) > 0
    start = weight * mask
    few = refit_values(weight, start, mask, metric, 4)
    assert (loss(metric, weight - few) < loss(metric, weight - start)).all()
    assert (few[~mask] == 0).all() and torch.equal(start, weight * mask)
    many, gram = refit_values(weight, start, mask, metric, 60), metric.gram.double()
    for row, places in enumerate(mask):
        wanted = torch.linalg.solve(gram[places][:, places], gram[places] @ weight[row].double())
        assert torch.allclose(many[row, places].double(), wanted, atol=1e-3)


def test_an_exactly_fitted_row_is_unchanged():
    x = inputs(20)
    weight = random(6, 20)
    everything = torch.ones(6, 20, dtype=torch.bool)
    assert torch.equal(refit_values(weight, weight, everything, factorize_gram(x.T @ x), 4), weight)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.integers(0, 3), st.integers(1, 8), st.floats(0.05, 0.9))
def test_the_loss_never_increases(problem, rank, steps, share):
    """From any start, in each half step and in rounds of both."""
    weight, stats = problem
    metric, rank = stats.metric, min(rank, *weight.shape)
    mask = make_top_mask(weight.abs(), max(1, round(share * weight.numel())))
    start = SparseLowRankFit(
        weight * mask, mask, random(len(weight), rank, seed=1), random(rank, weight.shape[1], seed=2)
    )
    whole = loss(metric, weight).sum().item()

    def left(parts: SparseLowRankFit) -> float:
        return loss(metric, weight - parts.sparse - parts.low_rank).sum().item()

    losses, parts = [left(start)], start
    for _ in range(3):
        parts = refit_factors(weight, parts, metric)
        losses.append(left(parts))
        sparse = refit_values(weight - parts.low_rank, parts.sparse, parts.mask, metric, steps)
        parts = replace(parts, sparse=sparse)
        losses.append(left(parts))
    slack = 1e-5 * whole + 1e-12  # float32 rounding
    assert all(after <= before + slack for before, after in zip(losses, losses[1:], strict=False))
    assert left(refit(weight, deepcopy(start), metric, 3, steps)) <= losses[0] + slack
    assert (parts.sparse[~mask] == 0).all()
