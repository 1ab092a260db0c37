"""Budgets of a matrix, divided exactly between non-zeros and low-rank factors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsprism.allocation.packed_sizes import compute_break_even_rank, count_packed_bytes, make_pattern_budget, split
from lsprism.allocation.uniform import allocate_uniform
from lsprism.records.model_plan import Layer, LayerBudget
from lsprism.specs import PlanSpec, validate

SPEC = validate(PlanSpec, model_id="demo")
sizes = st.integers(1, 300)


def pattern_spec(pattern: str) -> PlanSpec:
    return validate(PlanSpec, model_id="demo", method="wanda", pattern=pattern)


@given(sizes, sizes, st.floats(0.01, 0.99))
def test_low_rank_takes_the_highest_rank_within_the_budget(rows, columns, share):
    kept = round(share * rows * columns)
    budget = split("low_rank", rows, columns, kept, SPEC)
    assert budget.kept == budget.rank * (rows + columns)
    assert budget.kept <= kept or budget.rank == 1
    assert budget.kept + rows + columns > kept or budget.rank == min(rows, columns)


@given(sizes, sizes, st.floats(0.01, 0.99), st.floats(0.01, 0.9))
def test_hybrid_keeps_exactly_its_budget(rows, columns, share, rank_share):
    kept = round(share * rows * columns)
    spec = validate(PlanSpec, model_id="demo", rank_share=rank_share)
    budget = split("sparse_low_rank", rows, columns, kept, spec)
    factors = budget.rank * (rows + columns)
    assert budget.kept == kept and factors <= kept and budget.rank <= min(rows, columns)
    unclamped = budget.rank < min(kept // (rows + columns), rows, columns)
    assert not unclamped or abs(factors - rank_share * kept) <= (rows + columns) / 2


def test_hybrid_uses_a_tenth_of_its_budget_for_factors():
    budget = split("sparse_low_rank", 576, 1536, 442_368, SPEC)
    assert budget.rank == 21 and budget.rank * (576 + 1536) / budget.kept == pytest.approx(0.1, abs=0.002)


def test_sparse_without_a_pattern_keeps_its_budget():
    assert split("sparse", 30, 40, 601, SPEC) == LayerBudget(kept=601)


@given(sizes, sizes, st.sampled_from(["2:4", "4:8"]))
def test_a_pattern_keeps_n_of_every_m_columns_and_of_the_rest(rows, columns, pattern):
    n, m = map(int, pattern.split(":"))
    per_row = sum(min(n, len(range(start, min(start + m, columns)))) for start in range(0, columns, m))
    kept = round(0.5 * rows * columns)
    assert split("sparse", rows, columns, kept, pattern_spec(pattern)) == LayerBudget(
        kept=rows * per_row, pattern=(n, m)
    )


def test_a_pattern_is_exact_for_whole_groups():
    assert make_pattern_budget(10, 64, "2:4") == LayerBudget(kept=320, pattern=(2, 4))
    assert make_pattern_budget(10, 64, "unstructured") is None


@given(sizes, sizes)
def test_factors_are_smaller_than_the_matrix_up_to_the_break_even_rank(rows, columns):
    rank, shape = compute_break_even_rank(rows, columns), (rows, columns)

    def smaller(rank: int) -> bool:
        factors = LayerBudget(kept=rank * (rows + columns), rank=rank)
        return count_packed_bytes("low_rank", shape, factors, 2) < count_packed_bytes("dense", shape, factors, 2)

    assert smaller(rank) and not smaller(rank + 1)


def test_uniform_gives_every_layer_the_same_density():
    sites = [Layer(name=f"s{n}", block=0, rows=n + 3, columns=7 * n + 1, bias=False) for n in range(9)]
    kept = {name: share.kept for name, share in allocate_uniform(sites, 0.7, []).items()}
    assert kept == {site.name: round(0.7 * site.rows * site.columns) for site in sites}
