"""SparseGPT compared with its definition, column by column."""

import pytest
import torch
from matrices import inputs, random

from lsprism.methods import sparsegpt
from lsprism.methods.gram import factorize_gram
from lsprism.methods.masks import make_top_mask
from lsprism.methods.sparsegpt import prune_columns
from lsprism.records.model_plan import LayerBudget

pytestmark = pytest.mark.usefixtures("one_thread")


def by_definition(weight: torch.Tensor, inverse_h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Optimal Brain Surgeon from left to right on a given mask, eliminating a column of the inverse of H after each."""
    weight, inverse_h = weight.double().clone(), inverse_h.double().clone()
    for j in range(weight.shape[1]):
        error = torch.where(mask[:, j], 0.0, weight[:, j] / inverse_h[0, 0])
        weight[:, j:] -= error[:, None] * inverse_h[0]
        inverse_h = (inverse_h - torch.outer(inverse_h[:, 0], inverse_h[0]) / inverse_h[0, 0])[1:, 1:]
    return weight.float()


@pytest.mark.parametrize("block", [4, 8, 128])
def test_it_is_optimal_brain_surgeon_from_left_to_right(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sparsegpt, "BLOCK", block)
    weight, x = random(7, 26), inputs(26)
    metric = factorize_gram(x.T @ x)
    for budget in (LayerBudget(kept=90), LayerBudget(kept=100, pattern=(2, 4))):
        sparse, mask = prune_columns(weight, metric.inverse, budget)
        wanted = by_definition(weight, torch.linalg.inv(metric.gram.double()), mask)
        assert torch.allclose(sparse, wanted, atol=1e-3)
        assert (sparse[~mask] == 0).all()


def test_a_single_group_keeps_the_highest_obs_scores():
    weight, x = random(7, 26), inputs(26)
    inverse = factorize_gram(x.T @ x).inverse
    _, mask = prune_columns(weight, inverse, LayerBudget(kept=90))
    assert torch.equal(mask, make_top_mask(weight.abs() / inverse.diagonal(), 90))


def test_groups_keep_their_number_among_the_best_of_the_matrix():
    weight, x = random(20, 300), inputs(300, tokens=900)
    weight[:, :128] *= 4
    inverse = factorize_gram(x.T @ x).inverse
    _, mask = prune_columns(weight, inverse, LayerBudget(kept=2000))
    wanted = make_top_mask(weight.abs() / inverse.diagonal(), 2000)
    assert [part.sum() for part in mask.split(128, dim=1)] == [part.sum() for part in wanted.split(128, dim=1)]
    assert mask[:, :128].sum() > mask[:, 128:].sum()
