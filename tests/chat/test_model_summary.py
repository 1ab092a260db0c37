"""The model summary matches the modules in memory."""

import pytest
import torch
from conftest import make_model

from lsprism import api
from lsprism.chat.model_summary import build_model_summary, compute_weights_sha256, compute_zero_share
from lsprism.packed.modules import PrismLinear


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return api.load(make_model(tmp_path_factory.mktemp("portrait") / "dense"))


def compressed(folder, text_file, dense, method):
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    api.compress(dense.source.model_id, folder / method, method=method, sparsity=0.5, calibration=calibration)
    return api.load(folder / method)


def test_summary_of_a_dense_model(dense):
    header = build_model_summary(dense)
    total = sum(parameter.numel() for parameter in dense.model.parameters())
    assert header.kept_parameters == header.model_parameters == total
    assert (header.packed_layers, header.mean_rank, header.dtype, header.device) == (
        0,
        None,
        "bfloat16",
        str(dense.device),
    )
    assert header.zeros == 0


@pytest.mark.parametrize("method, share, rank", [("wanda", 0.5, False), ("svd", None, True), ("hybrid", 0.55, True)])
def test_summary_of_an_artifact(tmp_path, text_file, dense, method, share, rank):
    loaded = compressed(tmp_path, text_file, dense, method)
    header = build_model_summary(loaded)
    packed = [module for module in loaded.model.modules() if isinstance(module, PrismLinear)]
    assert header.label == f"{method} 0.5"
    assert header.packed_layers == len(packed)
    assert header.zeros == (pytest.approx(share, abs=0.02) if share else None)
    ranks = [module.form.rank for module in packed if module.form.rank]
    assert header.mean_rank == (pytest.approx(sum(ranks) / len(ranks)) if rank else None)
    assert header.kept_parameters < header.model_parameters == build_model_summary(dense).model_parameters


def test_zeros_of_a_dense_model_are_counted(dense):
    layer = dense.model.model.layers[0].self_attn.q_proj
    before = layer.weight.clone()
    places = sum(p.numel() for n, p in dense.model.named_parameters() if "proj" in n)
    layer.weight[:4] = 0
    assert compute_zero_share(dense.model) == pytest.approx(4 * layer.in_features / places)
    layer.weight.copy_(before)


def test_the_hash_is_that_of_the_values_in_memory(dense):
    first = compute_weights_sha256(dense.model)
    assert compute_weights_sha256(api.load(dense.source.model_id).model) == first
    norm = dense.model.model.norm.weight
    with torch.no_grad():
        norm[0] += 1
    assert compute_weights_sha256(dense.model) != first
    with torch.no_grad():
        norm[0] -= 1
    assert compute_weights_sha256(dense.model) == first
