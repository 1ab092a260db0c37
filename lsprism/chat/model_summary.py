"""Summary of a loaded model, computed from its modules: a wrong file or a missing layer would be visible in it."""

import hashlib
import json

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lsprism.chat.messages import ModelSummary
from lsprism.evaluation.model_pair import EvaluatedModel
from lsprism.evaluation.sizes import measure_sizes
from lsprism.models.load import LoadedModel
from lsprism.models.structure import find_structure
from lsprism.packed.formats import Sparse, SparseLowRank
from lsprism.packed.modules import PrismLinear


def build_model_summary(loaded: LoadedModel) -> ModelSummary:
    """Summarize a loaded model. Reads every tensor once, for the hash."""
    model, size = loaded.model, measure_sizes(loaded)
    packed = [module for module in model.modules() if isinstance(module, PrismLinear)]
    ranks = [module.form.rank for module in packed if module.form.rank]
    side = EvaluatedModel(loaded.source, str(loaded.device), size.dtype)
    return ModelSummary(
        model_id=loaded.source.model_id,
        label=side.get_info().label,
        kept_parameters=size.kept_parameters,
        model_parameters=size.model_parameters,
        zeros=compute_zero_share(model),
        mean_rank=sum(ranks) / len(ranks) if ranks else None,
        packed_layers=len(packed),
        resident_bytes=size.resident_bytes,
        dtype=size.dtype,
        device=str(loaded.device),
        chats=bool(loaded.tokenizer.chat_template),
        weights_sha256=compute_weights_sha256(model),
        tokenizer_sha256=hashlib.sha256(json.dumps(loaded.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest(),
    )


def compute_zero_share(model: PreTrainedModel) -> float | None:
    """Fraction of zero entries in the layers of the blocks, with low-rank factors of their sparse part.

    Excludes layers that are purely low-rank; None if all are.
    """
    nothing = places = 0
    for layer in _list_layers(model):
        numbers, shape = _get_matrix(layer)
        if numbers is not None:
            places += shape[0] * shape[1]
            nothing += shape[0] * shape[1] - int(numbers.count_nonzero())
    return nothing / places if places else None


def compute_weights_sha256(model: nn.Module) -> str:
    """Hash of the names, dtypes, shapes and bytes of all tensors; a tied tensor counts under each of its names."""
    digest, before = hashlib.sha256(), {}
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in before:
            before[place] = hashlib.sha256(_to_bytes(tensor)).digest()
        digest.update(before[place])
    return digest.hexdigest()


def _list_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The packed layers, or for a dense model the layers that would be compressed."""
    packed: list[nn.Module] = [module for module in model.modules() if isinstance(module, PrismLinear)]
    return packed or [model.get_submodule(site.name) for site in find_structure(model).sites]


def _get_matrix(layer: nn.Module) -> tuple[Tensor | None, tuple[int, int]]:
    """The dense or sparse values of a layer, None if it is purely low-rank, and the shape of its matrix."""
    if not isinstance(layer, PrismLinear):
        weight = layer.get_parameter("weight")
        return weight, (weight.shape[0], weight.shape[1])
    shape = (layer.out_features, layer.in_features)
    match layer.form:
        case Sparse(values=values) | SparseLowRank(sparse=Sparse(values=values)):
            return values, shape
    return None, shape


def _to_bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
