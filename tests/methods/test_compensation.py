"""Error compensation: targets that include the errors of earlier layers."""

import pytest
import torch
from matrices import inputs, random

from lsprism.methods.compensation import compute_compensated_weight
from lsprism.methods.gram import factorize_gram
from lsprism.methods.stats import InputStats

pytestmark = pytest.mark.usefixtures("one_thread")


def beside(x: torch.Tensor, dense: torch.Tensor) -> InputStats:
    stats = InputStats(x.shape[1], gram=True, batches=2)
    for part, other in zip(x.split(400), dense.split(400), strict=True):
        stats.add_paired(part, other)
    return stats


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, its inputs in the compressed model, which are attenuated and mixed, and those in the dense model."""
    dense = inputs(40, tokens=800)
    return random(24, 40), 0.9 * dense + 0.1 * dense.roll(1, dims=1) + 0.05 * random(800, 40, seed=4), dense


def test_it_is_the_damped_least_squares_fit_to_the_dense_outputs():
    weight, x, dense = problem()
    target, metric = compute_compensated_weight(weight, beside(x, dense), 1.0), factorize_gram(x.T @ x)
    drift = (dense - x).T @ x / (x.T @ x).diagonal().mean()
    assert torch.allclose(target @ metric.gram, weight @ (metric.gram + drift), atol=1e-3)


def test_a_larger_fraction_reduces_the_output_error():
    weight, x, dense = problem()
    stats, wanted = beside(x, dense), dense @ weight.T
    lost = [
        (x @ compute_compensated_weight(weight, stats, share).T - wanted).norm().item()
        for share in (0.0, 0.5, 0.75, 1.0)
    ]
    assert lost == sorted(lost, reverse=True) and lost[-1] < 0.5 * lost[0]


def test_the_weight_is_unchanged_without_drift_or_with_fraction_zero():
    weight, x, dense = problem()
    assert compute_compensated_weight(weight, beside(x, dense), 0.0) is weight
    assert torch.equal(compute_compensated_weight(weight, beside(x, x), 1.0), weight)
    plain = InputStats(40, gram=True, batches=1)
    plain.add(x)
    assert compute_compensated_weight(weight, plain, 1.0) is weight
    assert compute_compensated_weight(weight.bfloat16(), beside(x, dense), 1.0).dtype == torch.bfloat16


def test_outlier_tokens_are_excluded_from_the_drift():
    _, x, dense = problem()
    x[7], dense[7] = 300 * x[7], 330 * dense[7]
    others = torch.arange(800) != 7
    assert torch.allclose(beside(x, dense).drift, (dense - x)[others].T @ x[others], rtol=1e-3, atol=0.05)


def test_zero_inputs_are_supported():
    weight, nothing = random(6, 8), torch.zeros(400, 8)
    assert torch.equal(compute_compensated_weight(weight, beside(nothing, nothing), 1.0), weight)
