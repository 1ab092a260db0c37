"""Singular values of every compressed layer, before and after compression.

Effective rank: exp of the entropy of sigma_i / sum(sigma) (Roy and Vetterli, "The effective rank", EUSIPCO 2007).
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lsprism.artifact.manifest import REMEDY, read_report
from lsprism.errors import DamagedError
from lsprism.models.load import select_dtype
from lsprism.models.module_utils import get_weight
from lsprism.models.structure import build_meta_model, find_structure
from lsprism.models.weights import WeightFiles, load_weights, map_tensor_files, release_weights
from lsprism.packed.formats import LowRank, PackedWeight, SparseLowRank, packed_from_tensors
from lsprism.records.compression import LayerReport, LayerSpectrum
from lsprism.records.model_plan import ModelSource

POINTS = 160  # stored points of a spectrum, evenly spaced on a logarithmic axis


def iter_spectra(folder: Path, source: ModelSource, known: set[str]) -> Iterator[LayerSpectrum]:
    """Yield the spectra of the artifact in `folder`, block by block, compared with its base model `source`.

    Layers in `known` are skipped. Raises DamagedError for a layer that cannot be unpacked.
    """
    model = build_meta_model(source.folder, select_dtype("auto", source))
    anatomy = find_structure(model)
    weights, files = WeightFiles(source.folder, model), map_tensor_files(folder)
    layers = {layer.name: layer for layer in read_report(folder).layers if layer.form != "dense"}
    for block in range(anatomy.count):
        sites = [site for site in anatomy.get_block_layers(block) if site.name in layers and site.name not in known]
        if not sites:
            continue
        name = anatomy.get_block_name(block)
        load_weights(model.get_submodule(name), name, weights, torch.device("cpu"))
        for site in sites:
            form = _load_packed(folder, files, layers[site.name])
            try:
                found = compute_spectrum(get_weight(model, site).float(), form, layers[site.name])
            except RuntimeError as error:  # the bitmap marks more entries than there are values, or shapes differ
                reason = str(error).splitlines()[0].rstrip(".")
                raise DamagedError(f"{site.name} in {folder} is damaged: {reason}.", REMEDY) from None
            yield found
        release_weights(model.get_submodule(name))


def compute_spectrum(weight: Tensor, form: PackedWeight, layer: LayerReport) -> LayerSpectrum:
    """Spectrum of one layer: `weight` [rows, columns] before, `form` after compression."""
    sparse, factors = _split_parts(form)
    after_weight = sparse + factors
    before, after = torch.linalg.svdvals(weight), torch.linalg.svdvals(after_weight)
    ranks = _select_ranks(len(before), layer.rank)
    at = torch.tensor(ranks) - 1
    return LayerSpectrum(
        name=layer.name,
        block=layer.block,
        rows=layer.rows,
        columns=layer.columns,
        rank=layer.rank,
        ranks=ranks,
        before=_round_values(before[at]),
        after=_round_values(after[at]),
        energy_before=_round_values(_compute_cumulative_energy(before)[at]),
        energy_after=_round_values(_compute_cumulative_energy(after)[at]),
        effective_rank_before=compute_effective_rank(before),
        effective_rank_after=compute_effective_rank(after),
        weight_energy=_compute_energy(weight),
        sparse_energy=_compute_energy(sparse),
        factors_energy=_compute_energy(factors),
        kept_energy=_compute_energy(after_weight),
        lost_energy=_compute_energy(weight - after_weight),
    )


def compute_effective_rank(values: Tensor) -> float:
    """Effective rank of singular values [n], between 1 and n; 0 for a matrix of zeros."""
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def _load_packed(folder: Path, files: dict[str, str], layer: LayerReport) -> PackedWeight:
    """The packed weight of a layer, read from the artifact."""
    tensors = {}
    for part in ("weight", "bitmap", "left", "right", "scales", "left_scales", "right_scales"):
        key = f"{layer.name}.{part}"
        if key in files:
            with safe_open(folder / files[key], framework="pt") as opened:
                tensors[part] = opened.get_tensor(key)
    try:
        return packed_from_tensors(layer.form, tensors, layer.columns)
    except KeyError as error:
        raise DamagedError(f"{folder} has no {layer.name}.{error.args[0]}.", "Compress the model again.") from None


def _split_parts(form: PackedWeight) -> tuple[Tensor, Tensor]:
    """The sparse part and the product of the low-rank factors, each [rows, columns] float32; zeros if missing."""
    match form:
        case SparseLowRank(sparse, low_rank):
            return sparse.to_dense().float(), low_rank.compute_product()
        case LowRank():
            product = form.compute_product()
            return torch.zeros_like(product), product
    dense = form.to_dense().float()
    return dense, torch.zeros_like(dense)


def _select_ranks(count: int, rank: int) -> list[int]:
    """Selected ranks from 1 to `count`, including the rank of the low-rank factors."""
    spaced = torch.logspace(0, torch.log10(torch.tensor(float(count))), POINTS).round().int().tolist()
    return sorted({*spaced, 1, count, *([rank] if 0 < rank <= count else [])})


def _compute_cumulative_energy(values: Tensor) -> Tensor:
    """Fraction of the squared norm in the first i values, [n]."""
    squares = values.double() ** 2
    return squares.cumsum(0) / squares.sum().clamp_min(torch.finfo(torch.float64).tiny)


def _compute_energy(matrix: Tensor) -> float:
    return float(matrix.double().square().sum())


def _round_values(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
