"""Properties of every method: exact budgets, smaller errors for larger budgets, and support for poor inputs."""

import pytest
import torch
from matrices import inputs, low_rank_plus_sparse, output_error, random, stats_of

from lsprism.allocation.packed_sizes import split
from lsprism.methods import METHODS
from lsprism.methods.wanda import compute_scores
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.records.model_plan import LayerBudget
from lsprism.specs import PATTERNED, PlanSpec, validate

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = {"sparse": Sparse, "low_rank": LowRank, "sparse_low_rank": SparseLowRank}
every_method = pytest.mark.parametrize("name", METHODS)
every_pattern = pytest.mark.parametrize("pattern", ["2:4", "4:8"])


def budget_for(name: str, weight: torch.Tensor, kept: int, pattern: str = "unstructured") -> LayerBudget:
    spec = validate(PlanSpec, model_id="demo", method=name, pattern=pattern)
    return split(METHODS[name].form, *weight.shape, kept, spec)


def compressed(name: str, weight: torch.Tensor, x: torch.Tensor, share: float = 0.5, pattern: str = "unstructured"):
    budget = budget_for(name, weight, round(share * weight.numel()), pattern)
    return METHODS[name].compress(weight, stats_of(x), budget)


SHARES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
SHAPES = [(24, 40), (40, 24), (33, 131), (1, 50), (50, 1), (1, 1)]


@every_method
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_budget_is_met_exactly(name, shape):
    weight, stats = random(*shape), stats_of(inputs(shape[1]))
    for share in (0.1, 0.5, 0.93):
        budget = budget_for(name, weight, round(share * weight.numel()))
        form = METHODS[name].compress(weight, stats, budget)
        assert form.kept == budget.kept and form.rank == budget.rank
        assert form.to_dense().shape == weight.shape and torch.isfinite(form.to_dense()).all()
        planned = "sparse" if METHODS[name].form == "sparse_low_rank" and budget.rank == 0 else METHODS[name].form
        assert type(form) is FORMS[planned]


@pytest.mark.parametrize("name", PATTERNED)
@every_pattern
@pytest.mark.parametrize("columns", [64, 130, 259, 3])
def test_a_pattern_keeps_n_of_every_group(name, pattern, columns):
    weight = random(9, columns)
    form = compressed(name, weight, inputs(columns), pattern=pattern)
    n, m = map(int, pattern.split(":"))
    groups = (form.to_dense() != 0).split(m, dim=1)
    assert all((group.sum(1) == min(n, group.shape[1])).all() for group in groups)
    assert form.kept == budget_for(name, weight, 0, pattern).kept


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_weights_keep_their_dtype(name, dtype):
    weight, x = random(24, 40).to(dtype), inputs(40)
    form = compressed(name, weight, x)
    assert {tensor.dtype for tensor in form.get_tensors().values()} <= {dtype, torch.uint8}
    exact = compressed(name, weight.float(), x)
    assert output_error(weight, form, x) == pytest.approx(output_error(weight, exact, x), abs=0.01)


@every_method
def test_neither_weights_nor_statistics_are_changed(name):
    weight, stats = random(24, 40), stats_of(inputs(40))
    before = weight.clone(), stats.metric.gram.clone(), stats.squares.clone()
    METHODS[name].compress(weight, stats, budget_for(name, weight, 480))
    assert all(torch.equal(*pair) for pair in zip(before, (weight, stats.metric.gram, stats.squares), strict=True))


def test_scores_do_not_modify_the_weight():
    weight, norms = -random(5, 6).abs(), random(6).abs()
    before = weight.clone()
    assert torch.allclose(compute_scores(weight, norms), -weight * norms)
    assert torch.equal(weight, before)


@every_method
def test_the_same_call_gives_the_same_bytes(name):
    weight, x = random(24, 40), inputs(40)
    once, twice = (compressed(name, weight, x).get_tensors() for _ in range(2))
    assert all(torch.equal(once[part], twice[part]) for part in once)


@every_method
@pytest.mark.parametrize("shape", [(40, 64), (64, 120)], ids=str)
def test_a_larger_budget_never_gives_a_larger_error(name, shape):
    weight, x = low_rank_plus_sparse(*shape, rank=4, share=0.1), inputs(shape[1])
    errors = [
        output_error(weight, compressed(name, weight, x, share), x) for share in (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2


SCALES = torch.logspace(-4, 4, 40)
HARD = {
    "dead features": (random(24, 40), inputs(40) * (torch.arange(40) % 3 > 0)),
    "no weight": (torch.zeros(24, 40), inputs(40)),
    "fewer tokens than columns": (random(24, 40), inputs(40, tokens=5)),
    "one token": (random(24, 40), inputs(40, tokens=1)),
    "no input": (random(24, 40), torch.zeros(5, 40)),
    "all features alike": (random(24, 40), inputs(40)[:, :1].expand(-1, 40)),
    "columns of every scale": (random(24, 40) * SCALES, inputs(40, spread=6)),
    "rows of every scale": (random(40, 24) * SCALES[:, None], inputs(24)),
    "rank one": (random(24, 1) @ random(1, 40), inputs(40)),
    "a row of zeros": (random(24, 40) * (torch.arange(24) > 0)[:, None], inputs(40)),
}


@every_method
@pytest.mark.parametrize("case", HARD)
def test_poor_inputs_are_supported(name, case):
    weight, x = HARD[case]
    form = compressed(name, weight, x, 0.6)
    assert form.kept <= round(0.6 * weight.numel()) and torch.isfinite(form.to_dense()).all()
    if x.any() and weight.any():
        assert output_error(weight, form, x) < 1


@pytest.mark.parametrize("name", PATTERNED)
@pytest.mark.parametrize("case", HARD)
def test_poor_inputs_are_supported_with_a_pattern(name, case):
    weight, x = HARD[case]
    form = compressed(name, weight, x, pattern="2:4")
    assert form.kept == weight.numel() // 2 and torch.isfinite(form.to_dense()).all()


@pytest.mark.parametrize("name", ["svd", "svd-plain"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)], ids=str)
def test_factors_of_full_rank_are_exact(name, shape):
    weight = random(*shape)
    form = METHODS[name].compress(weight, stats_of(inputs(shape[1])), LayerBudget(kept=20 * sum(shape), rank=20))
    assert torch.allclose(form.to_dense(), weight, atol=1e-4)


def test_pruning_by_score_does_not_change_kept_weights():
    weight, x = random(24, 40), inputs(40)
    for name in ("wanda", "magnitude"):
        dense = compressed(name, weight, x).to_dense()
        assert torch.equal(dense[dense != 0], weight[dense != 0])
