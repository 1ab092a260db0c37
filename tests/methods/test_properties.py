"""Properties of every method for any shape, budget and inputs."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matrices import inputs, random, root_of, stats_of
from test_methods import FORMS, budget_for

from lsprism.method_catalog import get_method_info
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats
from lsprism.records.model_plan import LayerBudget
from lsprism.specs import PATTERNED

pytestmark = pytest.mark.usefixtures("one_thread")

any_method = st.sampled_from(sorted(METHODS))
shares = st.floats(0.01, 0.99)
thorough = settings(max_examples=80, deadline=None)
EXACT = ("magnitude", "wanda", "svd", "svd-plain")  # optimal for their budget, each by its own objective


@st.composite
def problems(draw) -> tuple[torch.Tensor, InputStats]:
    """A weight [rows, columns], including narrow and odd shapes, with good or poor statistics."""
    rows, columns, seed = draw(st.integers(1, 24)), draw(st.integers(1, 40)), draw(st.integers(0, 9999))
    x = inputs(
        columns,
        tokens=draw(st.sampled_from([1, 3, 40, 300])),
        correlated=draw(st.booleans()),
        spread=draw(st.sampled_from([0.0, 1.0, 3.0])),
        seed=seed,
    )
    x[:, draw(st.lists(st.integers(0, columns - 1), max_size=3))] = 0  # always-zero features
    return random(rows, columns, seed=seed + 5), stats_of(x)


def error(name: str, weight: torch.Tensor, stats: InputStats, budget: LayerBudget) -> float:
    """Relative error by the method's own objective: the weights, the input norms, or the Gram matrix."""
    lost = weight.double() - METHODS[name].compress(weight, stats, budget).to_dense().double()
    if name in ("magnitude", "svd-plain"):
        scale = torch.eye(weight.shape[1])
    else:
        scale = stats.norms.diag() if name == "wanda" else root_of(stats.metric)
    whole = (weight.double() @ scale.double()).norm()
    return ((lost @ scale.double()).norm() / whole.clamp_min(1e-30)).item()


@thorough
@given(problems(), any_method, shares)
def test_the_budget_is_met_exactly(problem, name, share):
    weight, stats = problem
    before = weight.clone()
    budget = budget_for(name, weight, round(share * weight.numel()))
    form = METHODS[name].compress(weight, stats, budget)
    assert (form.kept, form.rank) == (budget.kept, budget.rank)
    without_factors = get_method_info(name).low_rank and budget.rank == 0
    assert type(form) is FORMS["sparse" if without_factors else METHODS[name].form]
    assert form.to_dense().shape == weight.shape and form.to_dense().isfinite().all()
    assert torch.equal(weight, before)


@thorough
@given(problems(), st.sampled_from(PATTERNED), st.sampled_from(["2:4", "4:8"]))
def test_a_pattern_is_met_in_every_group(problem, name, pattern):
    weight, stats = problem
    n, m = map(int, pattern.split(":"))
    budget = budget_for(name, weight, 0, pattern)
    form = METHODS[name].compress(weight, stats, budget)
    assert form.kept == budget.kept
    assert all(((group != 0).sum(1) <= min(n, group.shape[1])).all() for group in form.to_dense().split(m, dim=1))


@thorough
@given(problems(), st.sampled_from(EXACT), shares, shares)
def test_more_budget_never_gives_more_error(problem, name, one, other):
    weight, stats = problem
    small, large = (budget_for(name, weight, round(share * weight.numel())) for share in sorted((one, other)))
    assert error(name, weight, stats, large) <= error(name, weight, stats, small) + 1e-5


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["sparsegpt", "hybrid"]), st.floats(0.05, 0.9), st.floats(0.05, 0.5))
def test_greedy_methods_improve_with_five_percent_more_budget(problem, name, share, more):
    """Choosing column by column is not optimal: one more entry may slightly increase the error. At the same rank."""
    weight, stats = problem
    assume(weight.numel() >= 64)  # in tiny matrices a single entry dominates
    small = budget_for(name, weight, round(share * weight.numel()))
    kept = min(weight.numel(), small.kept + max(1, round(more * weight.numel())))
    larger = small.model_copy(update={"kept": kept})
    assert error(name, weight, stats, larger) <= error(name, weight, stats, small) + 1e-3
