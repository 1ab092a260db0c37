"""Singular values and energies follow from the matrices."""

import pytest
import torch

from lsprism.evaluation.spectra import POINTS, compute_effective_rank, compute_spectrum
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.records.compression import LayerReport


def _layer(form: str, rows: int, columns: int, rank: int = 0) -> LayerReport:
    return LayerReport(
        name="model.layers.0.q", block=0, rows=rows, columns=columns, form=form, kept=1, rank=rank, stored_bytes=1,
        dense_bytes=1, error=0.0,
    )  # fmt: skip


def test_an_uncompressed_layer_has_an_unchanged_spectrum():
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    site = compute_spectrum(weight, Sparse.pack(weight, torch.ones(12, 20, dtype=torch.bool)), _layer("sparse", 12, 20))
    assert site.before == pytest.approx(site.after) and site.lost_energy == 0
    assert site.effective_rank_before == pytest.approx(site.effective_rank_after, rel=1e-4)
    assert site.ranks[0] == 1 and site.ranks[-1] == 12


def test_factors_end_at_their_rank():
    g = torch.Generator().manual_seed(1)
    left, right = torch.randn(16, 3, generator=g), torch.randn(3, 24, generator=g)
    weight = torch.randn(16, 24, generator=g)
    site = compute_spectrum(weight, LowRank(left, right), _layer("low_rank", 16, 24, rank=3))
    after = dict(zip(site.ranks, site.after, strict=True))
    assert 3 in after and after[3] > 1e-3 and after[4] < 1e-4 * after[1]
    assert site.effective_rank_after <= 3 + 1e-3 and site.sparse_energy == 0
    assert dict(zip(site.ranks, site.energy_after, strict=True))[3] == pytest.approx(1.0)


def test_energies_are_squared_norms_of_the_parts():
    g = torch.Generator().manual_seed(2)
    weight, mask = torch.randn(10, 16, generator=g), torch.rand(10, 16, generator=g) > 0.5
    left, right = torch.randn(10, 2, generator=g), torch.randn(2, 16, generator=g)
    form = SparseLowRank(Sparse.pack(weight, mask), LowRank(left, right))
    site = compute_spectrum(weight, form, _layer("sparse_low_rank", 10, 16, rank=2))
    sparse, factors = weight * mask, left @ right
    assert site.weight_energy == pytest.approx(float(weight.square().sum()), rel=1e-5)
    assert site.sparse_energy == pytest.approx(float(sparse.square().sum()), rel=1e-5)
    assert site.kept_energy == pytest.approx(float((sparse + factors).square().sum()), rel=1e-5)
    assert site.lost_energy == pytest.approx(float((weight - sparse - factors).square().sum()), rel=1e-5)
    assert site.kept_energy == pytest.approx(sum(v**2 for v in site.after), rel=1e-3)


def test_effective_rank_counts_equal_directions():
    assert compute_effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert compute_effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1.0)
    assert compute_effective_rank(torch.zeros(4)) == 0.0


def test_a_long_spectrum_is_thinned_but_keeps_its_ends():
    weight = torch.randn(500, 600, generator=torch.Generator().manual_seed(3))
    site = compute_spectrum(weight, Sparse.pack(weight, weight.abs() > 1), _layer("sparse", 500, 600))
    assert len(site.ranks) <= POINTS + 2 and (site.ranks[0], site.ranks[-1]) == (1, 500)
    assert site.ranks == sorted(set(site.ranks)) and site.energy_before[-1] == pytest.approx(1.0)
