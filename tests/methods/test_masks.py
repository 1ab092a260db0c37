"""Masks keep exactly the highest scores and do not modify their arguments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsprism.methods import masks
from lsprism.methods.masks import make_mask, make_n_of_m_mask, make_row_mask, make_top_mask
from lsprism.records.model_plan import LayerBudget

quick = settings(max_examples=60, deadline=None)


@st.composite
def scored(draw) -> tuple[torch.Tensor, int]:
    """Scores of any shape, including ties, and the number to keep."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    levels = draw(st.sampled_from([0, 1, 4, 10**6]))
    return (scores * levels).round(), draw(st.integers(0, rows * columns))


def by_sorting(scores: torch.Tensor, wanted: list[int]) -> torch.Tensor:
    """The definition: the first entries of every row in a stable descending order."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for row, count in enumerate(wanted):
        mask[row, order[row, :count]] = True
    return mask


@quick
@given(scored())
def test_per_row_keeps_the_first_of_a_stable_order(case):
    scores, kept = case
    before = scores.clone()
    mask = make_row_mask(scores, kept)
    counts = mask.sum(1)
    assert counts.max() - counts.min() <= 1 and counts.sum() == kept and torch.equal(scores, before)
    assert torch.equal(mask, by_sorting(scores, counts.tolist()))


@quick
@given(scored(), st.integers(0, 360))
def test_the_mask_of_a_larger_budget_contains_that_of_a_smaller_one(case, more):
    scores, kept = case
    larger = make_row_mask(scores, min(kept + more, scores.numel()))
    assert (larger | ~make_row_mask(scores, kept)).all()


def test_rows_that_keep_one_more_are_spread_over_the_matrix():
    for rest in (10, 25, 50):
        richer = (make_row_mask(torch.rand(100, 9), 300 + rest).sum(1) == 4).nonzero()[:, 0]
        gaps = richer.diff()
        assert len(richer) == rest and gaps.max() <= 3 * 100 / rest


@quick
@given(scored())
def test_the_best_of_the_whole_matrix(case):
    scores, kept = case
    mask = make_top_mask(scores, kept)
    assert torch.equal(mask.flatten(), by_sorting(scores.view(1, -1), [kept])[0])


@quick
@given(scored(), st.sampled_from([(2, 4), (4, 8), (1, 3)]))
def test_n_of_m_keeps_the_first_n_of_every_group(case, pattern):
    (scores, _), (n, m) = case, pattern
    mask = make_n_of_m_mask(scores, n, m)
    assert mask.shape == scores.shape
    for group, kept in zip(scores.split(m, dim=1), mask.split(m, dim=1), strict=True):
        assert torch.equal(kept, by_sorting(group, [min(n, group.shape[1])] * len(group)))


def test_processing_rows_in_chunks_gives_the_same_mask(monkeypatch: pytest.MonkeyPatch):
    scores = torch.rand(50, 37)
    whole = make_row_mask(scores, 901)
    monkeypatch.setattr(masks, "CHUNK", 37 * 7)
    assert torch.equal(make_row_mask(scores, 901), whole)


def test_a_budget_decides_the_pattern():
    scores = torch.rand(6, 16)
    assert torch.equal(make_mask(scores, LayerBudget(kept=48, pattern=(2, 4))), make_n_of_m_mask(scores, 2, 4))
    assert torch.equal(make_mask(scores, LayerBudget(kept=47)), make_row_mask(scores, 47))
