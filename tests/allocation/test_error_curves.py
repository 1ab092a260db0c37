"""Error curves: exact at their points, plausible between them, and no prediction far from them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsprism.allocation.error_curves import DENSITIES, ROWS, interpolate_errors, measure_error_curves, predict_error
from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats, compute_output_error
from lsprism.records.model_plan import ErrorPoint, Layer, LayerBudget
from lsprism.specs import PlanSpec, validate

SITE = Layer(name="s", block=0, rows=100, columns=100, bias=False)
POINTS = [ErrorPoint(density=d, error=e) for d, e in ((0.3, 0.5), (0.5, 0.3), (0.8, 0.1))]


@pytest.fixture(scope="module")
def seen() -> LayerInputs:
    """600 x 48, with correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 48, generator=generator) @ torch.randn(48, 48, generator=generator)
    stats = InputStats(48, gram=True, batches=1)
    stats.add(x)
    site = Layer(name="s", block=0, rows=600, columns=48, bias=False)
    return LayerInputs(site, torch.randn(600, 48, generator=generator), stats, harm=lambda _: 1.0)


def test_a_curve_goes_through_its_points_and_falls_between():
    assert interpolate_errors(POINTS, np.array([0.3, 0.5, 0.8])) == pytest.approx([0.5, 0.3, 0.1])
    assert (np.diff(interpolate_errors(POINTS, np.linspace(0.05, 0.95, 50))) < 0).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 0.9))
def test_a_power_of_the_sparsity_is_predicted_exactly(density):
    points = [ErrorPoint(density=d, error=0.7 * (1 - d) ** 1.8) for d in (0.3, 0.5, 0.6, 0.8)]
    assert interpolate_errors(points, np.array([density]))[0] == pytest.approx(0.7 * (1 - density) ** 1.8)


def test_one_point_gives_no_curve():
    assert interpolate_errors(POINTS[:1], np.array([0.3])) is None
    assert predict_error(POINTS[:1], SITE, LayerBudget(kept=3000)) is None
    assert predict_error([], SITE, LayerBudget(kept=3000)) is None


def test_no_prediction_far_from_the_points():
    assert predict_error(POINTS, SITE, LayerBudget(kept=5000)) == pytest.approx(0.3)
    assert predict_error(POINTS, SITE, LayerBudget(kept=2100)) > 0.5
    assert predict_error(POINTS, SITE, LayerBudget(kept=1900)) is None
    assert predict_error(POINTS, SITE, LayerBudget(kept=9100)) is None


def test_points_with_another_rank_are_ignored():
    joined = [ErrorPoint(density=p.density, rank_share=0.2, error=p.error / 2) for p in POINTS]
    assert predict_error([*POINTS, *joined], SITE, LayerBudget(kept=5000, rank=5)) == pytest.approx(0.15)
    assert predict_error([*POINTS, *joined], SITE, LayerBudget(kept=5000)) == pytest.approx(0.3)
    assert predict_error(joined, SITE, LayerBudget(kept=5000)) is None
    assert predict_error(joined, SITE, LayerBudget(kept=5000, rank=6)) == pytest.approx(0.15), "within rank rounding"


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_a_subset_of_rows_estimates_the_error_of_all(method, seen):
    assert len(seen.weight) > ROWS
    curve = next(measure_error_curves([seen], validate(PlanSpec, model_id="demo", method=method))).curve
    assert [round(point.density, 2) for point in curve] == list(DENSITIES)
    for point in curve:
        found = METHODS[method].compress(seen.weight, seen.stats, LayerBudget(kept=round(point.density * 600 * 48)))
        assert point.error == pytest.approx(
            compute_output_error(seen.weight, found.to_dense(), seen.stats.sample), rel=0.1
        )


def test_hybrid_is_measured_with_and_without_factors(seen):
    spec = validate(PlanSpec, model_id="demo", method="hybrid", rank_share=0.2)
    curve = next(measure_error_curves([seen], spec)).curve
    assert {point.rank_share for point in curve} == {0.0, 0.2}
    for share in (0.0, 0.2):
        errors = [point.error for point in curve if point.rank_share == share]
        assert errors == sorted(errors), "in order of decreasing density"
