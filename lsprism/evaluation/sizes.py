"""Sizes of a model, counted from its modules, its files and its tensors in memory."""

from lsprism.models.load import LoadedModel
from lsprism.models.tensor_files import map_tensor_files
from lsprism.packed.modules import PrismLinear
from lsprism.records.metrics import SizeResult


def measure_sizes(loaded: LoadedModel) -> SizeResult:
    """Sizes of a dense model or an artifact. Files are counted in its folder; for a .gguf, those converted from it."""
    packed = [module for module in loaded.model.modules() if isinstance(module, PrismLinear)]
    inside = {id(parameter) for module in packed for parameter in module.parameters()}
    around = sum(p.numel() for p in loaded.model.parameters() if id(p) not in inside)
    around += sum(module.bias.numel() for module in packed if module.bias is not None)
    files = {loaded.source.folder / name for name in map_tensor_files(loaded.source.folder).values()}
    return SizeResult(
        kept_parameters=around + sum(module.outline.kept for module in packed),
        model_parameters=around + sum(module.out_features * module.in_features for module in packed),
        stored_bytes=sum(path.stat().st_size for path in files),
        resident_bytes=count_resident_bytes(loaded),
        dtype=str(loaded.dtype).removeprefix("torch."),
    )


def count_resident_bytes(loaded: LoadedModel) -> int:
    """Bytes of all parameters and buffers in memory, in whatever format; shared storage counts once."""
    storages = {}
    for tensor in [*loaded.model.parameters(), *loaded.model.buffers()]:
        storage = tensor.untyped_storage()
        storages[storage.device, storage.data_ptr()] = 0 if tensor.is_meta else storage.nbytes()
    packed = [module.group for module in loaded.model.modules() if isinstance(module, PrismLinear) and module.group]
    return sum(storages.values()) + sum({id(group): group.nbytes for group in packed}.values())
