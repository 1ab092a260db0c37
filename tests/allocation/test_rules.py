"""Allocation rules: all keep the same total for any model, and each follows its definition."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from lsprism.allocation import RULES
from lsprism.allocation.allocate import allocate
from lsprism.allocation.atp import SPAN, allocate_atp
from lsprism.allocation.effective_rank import allocate_by_spectrum, compute_effective_rank
from lsprism.allocation.error_curves import interpolate_errors
from lsprism.allocation.kmif import allocate_kmif, find_dominant_rank
from lsprism.allocation.knapsack import allocate_by_error_curves
from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import (
    HIGHEST,
    LOWEST,
    compute_bounds,
    compute_total_kept,
    scale_to_total,
    shift_to_total,
)
from lsprism.allocation.owl import LAMBDA, allocate_owl, measure_outliers
from lsprism.allocation.sensitivity import (
    FLOOR,
    POWER,
    REACH,
    allocate_by_sensitivity,
    resolve_sensitivities,
    select_proxy_method,
)
from lsprism.method_catalog import list_method_names
from lsprism.methods.stats import InputStats
from lsprism.records.model_plan import ErrorPoint, Layer, LayerSensitivity
from lsprism.specs import PlanSpec, validate

sizes = st.sampled_from([64, 192, 576, 1000, 1536, 4096])
densities = st.floats(0.1, 0.95)


def site(block: int, rows: int = 100, columns: int = 100, name: str = "") -> Layer:
    return Layer(name=name or f"{block}", block=block, rows=rows, columns=columns, bias=False)


def curve(scale: float, share: float = 0.0) -> list[ErrorPoint]:
    """An error curve from `scale` to zero."""
    return [ErrorPoint(density=d, rank_share=share, error=scale * (1 - d) ** 1.5) for d in (0.15, 0.4, 0.7, 0.9)]


@st.composite
def models(draw) -> tuple[list[Layer], list[LayerSensitivity]]:
    """1 to 6 blocks with the same layers, and arbitrary measurements of each layer."""
    shapes = draw(st.lists(st.tuples(sizes, sizes), min_size=4, max_size=7))
    sites = [site(b, *shape, f"{b}.{n}") for b in range(draw(st.integers(1, 6))) for n, shape in enumerate(shapes)]
    traits = []
    for each in sites:
        outlier_share, scale = draw(st.floats(0, 0.2)), draw(st.floats(0.01, 1))
        rank = draw(st.integers(1, min(each.rows, each.columns)))
        traits.append(
            LayerSensitivity(
                name=each.name,
                outlier_share=outlier_share,
                effective_rank=rank,
                dominant_rank=rank,
                curve=curve(scale) + curve(draw(st.floats(0.01, 1)), 0.1),
                harm=draw(st.sampled_from([0.0, 1e-3, 1.0, 50.0])),
            )
        )
    return sites, traits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", ["wanda", "hybrid", "svd"])
@settings(max_examples=8, deadline=None)
@given(models(), densities)
def test_every_rule_keeps_the_total_within_a_thousandth(rule, method, model, density):
    sites, traits = model
    spec = validate(PlanSpec, model_id="demo", method=method, allocation=rule, sparsity=1 - density)
    budgets = allocate(spec, sites, traits)
    wanted = density * sum(s.parameters for s in sites)
    within = 0.001 * wanted + len(sites)
    if method == "svd":  # in a model with few layers, one rank is more than a thousandth
        within = max(within, max(s.rows + s.columns for s in sites))
    assert abs(sum(budget.kept for budget in budgets.values()) - wanted) <= within
    for each in sites:
        budget = budgets[each.name]
        assert 0 < budget.kept < each.parameters
        assert budget.rank * (each.rows + each.columns) <= budget.kept
        assert method != "wanda" or budget.rank == 0


def test_ranks_of_a_real_model_meet_the_total_within_a_thousandth():
    shapes = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
    sites = [site(block, *shape, f"{block}.{n}") for block in range(30) for n, shape in enumerate(shapes)]
    traits = [LayerSensitivity(name=s.name, outlier_share=0.01 * s.block, effective_rank=99 + s.block) for s in sites]
    for rule, sparsity in product(("uniform", "owl", "atp", "spectrum"), (0.3, 0.5, 0.7)):
        spec = validate(PlanSpec, model_id="demo", method="svd", allocation=rule, sparsity=sparsity)
        kept = sum(budget.kept for budget in allocate(spec, sites, traits).values())
        assert kept == pytest.approx((1 - sparsity) * sum(s.parameters for s in sites), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20), densities)
def test_the_total_is_exact_and_every_layer_is_within_bounds(wishes, density):
    sites = [site(0, n + 20, 37, str(n)) for n in range(len(wishes))]
    for shares in (shift_to_total(sites, wishes, density), scale_to_total(sites, np.exp(wishes).tolist(), density)):
        assert sum(share.kept for share in shares.values()) == compute_total_kept(sites, density)
        low, high = compute_bounds(density)
        assert all(low * s.parameters - 1 <= shares[s.name].kept <= high * s.parameters + 1 for s in sites)
    assert compute_bounds(0.5) == (LOWEST, HIGHEST)


def test_missing_measurements_give_uniform():
    sites = [site(0), site(1)]
    for rule in (name for name, rule in RULES.items() if rule.learns):
        spec = validate(PlanSpec, model_id="demo", method="wanda", allocation=rule)
        assert {budget.kept for budget in allocate(spec, sites).values()} == {5000}


def test_owl_spreads_densities_of_blocks_by_two_lambda():
    sites = [site(0, name="a"), site(0, 300, 100, "b"), site(1, name="c"), site(2, name="d")]
    shares = [0.0, 0.04, 0.01, 0.02]  # of block 0: 0.03
    traits = [LayerSensitivity(name=s.name, outlier_share=share) for s, share in zip(sites, shares, strict=True)]
    kept = {s.name: allocate_owl(sites, 0.5, traits)[s.name].kept / s.parameters for s in sites}
    assert kept["a"] == pytest.approx(kept["b"], abs=1e-4), "layers of a block have the same density"
    assert kept["a"] - kept["c"] == pytest.approx(2 * LAMBDA, abs=1e-3)
    assert kept["d"] - kept["c"] == pytest.approx(LAMBDA, abs=1e-3)


def test_an_outlier_is_above_five_times_the_mean_of_its_block():
    loud, quiet = torch.full((4, 10), 1.0), torch.full((4, 10), 0.01)
    loud[0, 0] = 100.0
    stats = InputStats(10, gram=False, batches=1)
    stats.add(torch.eye(10))  # every feature has norm 1
    found = list(
        measure_outliers(
            [LayerInputs(site(0, 4, 10, "loud"), loud, stats), LayerInputs(site(0, 4, 10, "quiet"), quiet, stats)]
        )
    )
    assert [traits.outlier_share for traits in found] == [1 / 40, 0.0]
    stats.add(300.0 * torch.eye(10)[1:2])  # now column 1 exceeds that weight
    assert next(measure_outliers([LayerInputs(site(0, 4, 10, "loud"), loud, stats)])).outlier_share == 4 / 40


def test_a_block_without_layers_has_no_outliers():
    assert list(measure_outliers([])) == []


def test_atp_decreases_linearly_with_depth():
    sites = [site(block) for block in range(5)]
    kept = [share.kept for share in allocate_atp(sites, 0.4, []).values()]
    assert kept[0] - kept[-1] == pytest.approx(SPAN * 0.4 * 10_000, abs=2)
    assert np.diff(kept) == pytest.approx([-SPAN * 1000] * 4, abs=2)
    assert allocate_atp([site(0)], 0.4, [])["0"].kept == 4000


def test_the_effective_rank_of_equal_values_is_their_number():
    assert compute_effective_rank(torch.tensor([3.0, 3, 3, 0])) == pytest.approx(3)
    assert (
        compute_effective_rank(torch.tensor([9.0, 0, 0])) == pytest.approx(1) == compute_effective_rank(torch.zeros(3))
    )


@pytest.mark.parametrize("rule", [allocate_by_spectrum, allocate_kmif])
def test_twice_the_rank_has_twice_the_density(rule):
    sites = [site(n) for n in range(3)]
    ranks = (10, 20, 15)
    traits = [
        LayerSensitivity(name=s.name, effective_rank=n, dominant_rank=n) for s, n in zip(sites, ranks, strict=True)
    ]
    kept = [share.kept for share in rule(sites, 0.4, traits).values()]
    assert kept == pytest.approx([4000 * rank / 15 for rank in ranks], abs=1)


def test_kmif_counts_the_dominant_cluster_and_the_outliers():
    generator = torch.Generator().manual_seed(0)
    strong = torch.exp(4 + 0.1 * torch.randn(12, generator=generator))
    weak = torch.exp(0.1 * torch.randn(88, generator=generator))
    values = torch.cat([strong, weak]).sort(descending=True).values
    logs = values.double().log().numpy()[:, None]
    odd = IsolationForest(contamination=0.1, random_state=0).fit_predict(logs) == -1
    expected = len({*range(12), *np.flatnonzero(odd)})
    assert find_dominant_rank(values, 1000, 100) == min(expected, int(0.9 * 1000 * 100 / 1100))
    assert 12 <= expected <= 22, "a tenth of 100 are outliers"


def test_kmif_stays_between_one_rank_and_nine_tenths_of_the_break_even_rank():
    rising = torch.linspace(100, 90, 64)  # nearly all in one cluster
    assert find_dominant_rank(rising, 64, 64) <= int(0.9 * 32)
    assert find_dominant_rank(torch.cat([torch.full((40,), 9.0), torch.full((24,), 1e-9)]), 64, 64) == int(0.9 * 32)
    assert find_dominant_rank(torch.zeros(8), 8, 8) == 1
    assert find_dominant_rank(torch.ones(1), 1, 50) == 1
    assert find_dominant_rank(torch.tensor([5.0, 0.0]), 2, 100) == 1


def loss(sites, traits, shares) -> float:
    """Sum of squared errors at the kept densities, weighted by the sizes of the layers."""
    found = 0.0
    for each, seen in zip(sites, traits, strict=True):
        share = shares[each.name]
        points = [p for p in seen.curve if p.rank_share == (share.rank_share or 0.0)]
        found += each.parameters * interpolate_errors(points, np.array([share.kept / each.parameters]))[0] ** 2
    return found


def test_error_curves_find_the_optimal_allocation():
    sites = [site(0), site(1, 200, 100), site(2)]
    traits = [
        LayerSensitivity(name=s.name, curve=curve(c), harm=s.parameters * (c * 0.5**1.5) ** 2)
        for s, c in zip(sites, (0.9, 0.3, 0.1), strict=True)
    ]
    shares = allocate_by_error_curves(sites, 0.5, traits)
    least, most = 0.5 - REACH, 0.5 + REACH
    first, second = np.meshgrid(*[np.linspace(least, most, 171)] * 2)
    third = 0.5 * 4 - first - 2 * second
    possible = (third >= least) & (third <= most)
    divisions = [part[possible] for part in (first, second, third)]
    parts = zip(sites, traits, divisions, strict=True)
    tried = sum(s.parameters * interpolate_errors(t.curve, part) ** 2 for s, t, part in parts)
    assert loss(sites, traits, shares) <= tried.min() * 1.001
    uniform = RULES["uniform"].shares(sites, 0.5, [])
    assert loss(sites, traits, shares) < 0.9 * loss(sites, traits, uniform)
    assert shares["0"].kept > 5000 > shares["2"].kept


def test_error_curves_use_factors_where_they_reduce_the_error():
    sites = [site(0), site(1)]
    traits = [
        LayerSensitivity(name="0", curve=curve(0.5) + curve(0.3, share=0.1)),
        LayerSensitivity(name="1", curve=curve(0.3) + curve(0.5, share=0.1)),
    ]
    assert {name: share.rank_share for name, share in allocate_by_error_curves(sites, 0.5, traits).items()} == {
        "0": 0.1,
        "1": 0.0,
    }
    spec = validate(PlanSpec, model_id="demo", method="hybrid", allocation="error-curves")
    budgets = allocate(spec, sites, traits)
    assert (budgets["0"].rank, budgets["1"].rank) == (round(0.1 * budgets["0"].kept / 200), 0)


@pytest.mark.parametrize("rule", [allocate_by_sensitivity, allocate_by_error_curves])
def test_sensitive_layers_keep_more(rule):
    sites = [site(0), site(1), site(2)]
    harms = (3.0, 1.0, 0.1)
    traits = [LayerSensitivity(name=s.name, curve=curve(0.5), harm=harm) for s, harm in zip(sites, harms, strict=True)]
    kept = [share.kept for share in rule(sites, 0.5, traits).values()]
    assert kept[0] > kept[1] > kept[2] >= (0.5 - REACH) * 10_000


def test_sensitivity_minimizes_the_sum_of_changes():
    sites = [site(0), site(1, 200, 100), site(2)]
    harms = np.array([2.0, 1.5, 0.6])
    traits = [LayerSensitivity(name=s.name, harm=h) for s, h in zip(sites, harms, strict=True)]
    kept = [
        share.kept / s.parameters
        for s, share in zip(sites, allocate_by_sensitivity(sites, 0.6, traits).values(), strict=True)
    ]
    first, second = np.meshgrid(*[np.linspace(0.4, 0.8, 401)] * 2)
    third = 0.6 * 4 - first - 2 * second
    possible = (third >= 0.4) & (third <= 0.8)
    of_all = sum(h * (1 - part[possible]) ** POWER for h, part in zip(harms, (first, second, third), strict=True))
    found = sum(h * (1 - part) ** POWER for h, part in zip(harms, kept, strict=True))
    assert found <= of_all.min() * 1.0001 < 0.98 * sum(harms * 0.4**POWER)


def test_unknown_sensitivities_are_the_median_and_small_ones_are_limited():
    sites = [site(0), site(1), site(2, rows=200)]
    traits = [LayerSensitivity(name=s.name, harm=harm) for s, harm in zip(sites, (3.0, 1e-9, 0.0), strict=True)]
    usual = 1.5e-4  # the median of the known ones, per parameter
    assert resolve_sensitivities(sites, traits) == pytest.approx([3.0, FLOOR * usual * 10_000, usual * 20_000])
    unknown = [LayerSensitivity(name=s.name) for s in sites]
    assert resolve_sensitivities(sites, unknown) == pytest.approx([10_000, 10_000, 20_000]), "by their sizes"


def test_without_sensitivities_the_allocation_is_uniform():
    sites = [site(0), site(1, 50, 100), site(2, rows=200)]
    shares = allocate_by_sensitivity(sites, 0.3, [LayerSensitivity(name=s.name) for s in sites])
    assert [share.kept for share in shares.values()] == [3000, 1500, 6000]


def test_sensitivity_is_measured_with_a_fast_proxy():
    asked = {
        name: select_proxy_method(validate(PlanSpec, model_id="demo", method=name)) for name in list_method_names()
    }
    assert asked == {name: name for name in asked} | dict.fromkeys(("hybrid", "oats", "sparsegpt"), "wanda")


def test_error_curves_support_a_layer_without_points():
    shares = allocate_by_error_curves(
        [site(0), site(1)], 0.5, [LayerSensitivity(name="0"), LayerSensitivity(name="1", curve=curve(0.2))]
    )
    assert sum(share.kept for share in shares.values()) == 10_000
