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
from lsprism.layers.forms import Form, LowRank, SparseLowRank, form_of
from lsprism.models.anatomy import dissect, skeleton
from lsprism.models.load import pick_dtype
from lsprism.models.surgery import weight_of
from lsprism.models.weights import WeightFiles, fill, release, tensor_files
from lsprism.reports import LayerReport, ModelSource, SiteSpectrum

POINTS = 160  # stored points of a spectrum, evenly spaced on a logarithmic axis


def spectra(folder: Path, source: ModelSource, known: set[str]) -> Iterator[SiteSpectrum]:
    """Yield the spectra of the artifact in `folder`, block by block, compared with its base model `source`.

    Layers in `known` are skipped. Raises DamagedError for a layer that cannot be unpacked.
    """
    model = skeleton(source.folder, pick_dtype("auto", source))
    anatomy = dissect(model)
    weights, files = WeightFiles(source.folder, model), tensor_files(folder)
    layers = {layer.name: layer for layer in read_report(folder).layers if layer.form != "dense"}
    for block in range(anatomy.count):
        sites = [site for site in anatomy.of_block(block) if site.name in layers and site.name not in known]
        if not sites:
            continue
        name = anatomy.block_name(block)
        fill(model.get_submodule(name), name, weights, torch.device("cpu"))
        for site in sites:
            form = _form(folder, files, layers[site.name])
            try:
                found = spectrum(weight_of(model, site).float(), form, layers[site.name])
            except RuntimeError as error:  # the bitmap marks more entries than there are values, or shapes differ
                reason = str(error).splitlines()[0].rstrip(".")
                raise DamagedError(f"{site.name} in {folder} is damaged: {reason}.", REMEDY) from None
            yield found
        release(model.get_submodule(name))


def spectrum(weight: Tensor, form: Form, layer: LayerReport) -> SiteSpectrum:
    """Spectrum of one layer: `weight` [rows, columns] before, `form` after compression."""
    sparse, factors = _parts(form)
    after_weight = sparse + factors
    before, after = torch.linalg.svdvals(weight), torch.linalg.svdvals(after_weight)
    ranks = _places(len(before), layer.rank)
    at = torch.tensor(ranks) - 1
    return SiteSpectrum(
        name=layer.name,
        block=layer.block,
        rows=layer.rows,
        columns=layer.columns,
        rank=layer.rank,
        ranks=ranks,
        before=_short(before[at]),
        after=_short(after[at]),
        energy_before=_short(_cumulated(before)[at]),
        energy_after=_short(_cumulated(after)[at]),
        effective_rank_before=effective_rank(before),
        effective_rank_after=effective_rank(after),
        weight_energy=_energy(weight),
        sparse_energy=_energy(sparse),
        factors_energy=_energy(factors),
        kept_energy=_energy(after_weight),
        lost_energy=_energy(weight - after_weight),
    )


def effective_rank(values: Tensor) -> float:
    """Effective rank of singular values [n], between 1 and n; 0 for a matrix of zeros."""
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def _form(folder: Path, files: dict[str, str], layer: LayerReport) -> Form:
    """The packed weight of a layer, read from the artifact."""
    tensors = {}
    for part in ("weight", "bitmap", "left", "right", "scales", "left_scales", "right_scales"):
        key = f"{layer.name}.{part}"
        if key in files:
            with safe_open(folder / files[key], framework="pt") as opened:
                tensors[part] = opened.get_tensor(key)
    try:
        return form_of(layer.form, tensors, layer.columns)
    except KeyError as error:
        raise DamagedError(f"{folder} has no {layer.name}.{error.args[0]}.", "Compress the model again.") from None


def _parts(form: Form) -> tuple[Tensor, Tensor]:
    """The sparse part and the product of the low-rank factors, each [rows, columns] float32; zeros if missing."""
    match form:
        case SparseLowRank(sparse, low_rank):
            return sparse.dense().float(), low_rank.product()
        case LowRank():
            product = form.product()
            return torch.zeros_like(product), product
    dense = form.dense().float()
    return dense, torch.zeros_like(dense)


def _places(count: int, rank: int) -> list[int]:
    """Selected ranks from 1 to `count`, including the rank of the low-rank factors."""
    spaced = torch.logspace(0, torch.log10(torch.tensor(float(count))), POINTS).round().int().tolist()
    return sorted({*spaced, 1, count, *([rank] if 0 < rank <= count else [])})


def _cumulated(values: Tensor) -> Tensor:
    """Fraction of the squared norm in the first i values, [n]."""
    squares = values.double() ** 2
    return squares.cumsum(0) / squares.sum().clamp_min(torch.finfo(torch.float64).tiny)


def _energy(matrix: Tensor) -> float:
    return float(matrix.double().square().sum())


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
