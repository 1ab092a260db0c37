"""The Gram matrix gives the output error, and its low-rank approximation is optimal."""

import pytest
import torch
from matrices import inputs, random, root_of, stats_of

from lsprism.errors import NumericError
from lsprism.methods import gram as room
from lsprism.methods.gram import advance_low_rank, compute_truncated_svd, compute_weighted_svd, factorize_gram

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_root_is_upper_triangular_and_its_inverse_gives_the_inverse_of_h():
    metric = factorize_gram(inputs(40).T @ inputs(40))
    assert torch.equal(root_of(metric), root_of(metric).triu()) and torch.equal(metric.inverse, metric.inverse.triu())
    assert torch.allclose(root_of(metric) @ root_of(metric).T, metric.gram, atol=1e-4)
    inverse = torch.linalg.inv(metric.gram.double()).float()
    assert torch.allclose(metric.inverse.T @ metric.inverse, inverse, rtol=1e-3, atol=1e-4)


def test_it_gives_the_output_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "DAMPING", 0.0)
    x, lost = inputs(30), random(8, 30)
    metric = factorize_gram(x.T @ x)
    by_output = (x @ lost.T).norm() / (x.square().sum() / 30).sqrt()
    assert (lost @ root_of(metric)).norm().item() == pytest.approx(by_output.item(), rel=1e-3)


@pytest.mark.parametrize("rows", [20, 50])
def test_the_low_rank_approximation_is_optimal(rows: int):
    x, weight = inputs(30), random(rows, 30, seed=1)
    metric = factorize_gram(x.T @ x)

    def error(matrix: torch.Tensor) -> float:
        return ((weight - matrix) @ root_of(metric)).norm().item()

    left, right = compute_weighted_svd(metric, weight, 6)
    assert left.shape == (rows, 6) and right.shape == (6, 30)
    best = torch.linalg.svdvals((weight @ root_of(metric)).double())[6:].norm().item()
    assert error(left @ right) == pytest.approx(best, rel=1e-3)
    plain = compute_truncated_svd(weight, 6)
    assert error(left @ right) < error(plain[0] @ plain[1])


def test_subspace_iteration_converges_to_the_same():
    x, weight = inputs(30), random(20, 30, seed=1)
    metric = factorize_gram(x.T @ x)
    left, right = compute_weighted_svd(metric, weight, 4)
    near = random(4, 30, seed=2)
    for _ in range(200):
        _, near = (factors := advance_low_rank(metric.gram, weight, near))
    assert torch.allclose(factors[0] @ factors[1], left @ right, atol=1e-2)


@pytest.mark.parametrize("rows", [9, 14, 14 * 5])
def test_full_rank_is_exact(rows: int):
    x, weight = inputs(14, spread=4), random(rows, 14, seed=1)
    left, right = compute_weighted_svd(factorize_gram(x.T @ x), weight, min(rows, 14))
    assert torch.allclose(left @ right, weight, atol=1e-3)


@pytest.mark.parametrize("rows", [6, 30])
def test_plain_svd_equals_that_of_torch(rows: int):
    matrix = random(rows, 16)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    left, right = compute_truncated_svd(matrix, 4)
    assert torch.allclose(left @ right, u[:, :4] * s[:4] @ vh[:4], atol=1e-4)


SINGULAR = {
    "fewer tokens than columns": inputs(24, tokens=3),
    "one token": inputs(24, tokens=1),
    "nothing seen": torch.zeros(5, 24),
    "dead features": inputs(24) * (torch.arange(24) % 3 > 0),
    "all features alike": inputs(24)[:, :1].expand(-1, 24),
    "twelve decades": inputs(24, spread=12),
    "one feature": inputs(1),
}


@pytest.mark.parametrize("x", SINGULAR.values(), ids=SINGULAR)
def test_any_gram_matrix_has_a_finite_root(x: torch.Tensor):
    gram = x.T @ x
    before = gram.clone()
    metric = factorize_gram(gram)
    assert torch.isfinite(root_of(metric)).all() and torch.isfinite(metric.inverse).all()
    assert (root_of(metric).diagonal() > 0).all()
    assert torch.equal(gram, before)


def test_damping_is_raised_until_a_root_exists(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "DAMPING", 1e-9)  # too small for float32
    x = inputs(64, tokens=2)
    metric = factorize_gram(x.T @ x)
    raised = (metric.gram.diagonal() / (x.square().sum(0) / x.square().sum() * 64)).log10()
    assert torch.isfinite(metric.inverse).all() and raised.mean() > 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_statistics_are_refused(bad: float):
    gram = torch.eye(4)
    gram[1, 1] = bad
    with pytest.raises(NumericError, match="NaN or Inf"):
        factorize_gram(gram)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_subset_of_eigenvectors_equals_the_full_result(count: int):
    """The function that is faster for few eigenvectors gives the same as the one for all."""
    matrix = random(40, 60) @ random(60, 40) + 60 * torch.diag(torch.arange(40.0))
    symmetric = matrix @ matrix.T
    vectors = room._compute_top_eigenvectors(symmetric, count)
    wanted = torch.linalg.eigh(symmetric).eigenvectors.flip(1)[:, :count]
    assert vectors.shape == (40, count)
    assert torch.allclose((vectors * wanted).sum(0).abs(), torch.ones(count), atol=1e-4)


def test_missing_eigenvectors_are_an_error():
    with pytest.raises(torch.linalg.LinAlgError):
        room._compute_top_eigenvectors(torch.full((40, 40), torch.nan), 2)


def test_the_inverse_of_the_root_is_exact():
    x = inputs(50)
    metric = factorize_gram(x.T @ x)
    assert torch.allclose(metric.inverse @ root_of(metric), torch.eye(50), atol=1e-5)
    assert torch.equal(metric.inverse.tril(-1), torch.zeros(50, 50))


def test_the_metric_replaces_the_gram_matrix_in_memory():
    gram = inputs(40).T @ inputs(40)
    stats, wanted = stats_of(inputs(40)), factorize_gram(gram)
    memory = stats.gram.data_ptr()
    metric = stats.metric
    assert stats.gram is None and stats.metric is metric and metric.gram.data_ptr() == memory
    assert torch.allclose(metric.gram, wanted.gram) and metric.unit == pytest.approx(gram.diagonal().mean().item())
    assert torch.equal(gram, inputs(40).T @ inputs(40)), "by default, the matrix is not modified"
