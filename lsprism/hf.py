"""Registers the artifact format with transformers: after `import lsprism.hf`, AutoModelForCausalLM.from_pretrained,
pipelines and save_pretrained support artifacts. The weights stay packed in memory.

transformers only warns about missing or unexpected tensors; for packed layers, they are an error here, before anything
is loaded.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lsprism.artifact.manifest import REMEDY, check_format
from lsprism.errors import DamagedError
from lsprism.models.fused_decode import disable_fused_decode, enable_fused_decode
from lsprism.models.module_utils import replace_module
from lsprism.models.other_formats import QUANT_METHOD
from lsprism.models.structure import is_linear
from lsprism.packed.modules import DenseLinear, PrismLinear, make_meta_packed
from lsprism.records.model_plan import Layer, LayerBudget, ValuesName

PACKED, VALUES = ("sparse", "low_rank", "sparse_low_rank"), get_args(ValuesName)
# Module -> its stored tensors: shape, and kind: U8 (a bitmap), I8 (int8 values), or empty (floating point).
Stored = dict[str, dict[str, tuple[tuple[int, ...], str]]]
_KINDS = {torch.uint8: "U8", torch.int8: "I8"}


class PrismConfig(QuantizationConfigMixin):
    """quantization_config of an artifact. `modules`: path -> {"form", "kept", "rank", "values"}; `format`: version."""

    def __init__(self, modules: Any = None, format: Any = None, **_: Any) -> None:
        check_format(format, Path("config.json"))
        if not isinstance(modules, dict):
            raise DamagedError("config.json: quantization_config has no valid entry 'modules'.", REMEDY)
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # the enum of transformers has its own formats only
        self.format: int = format
        self.modules: dict[str, dict[str, Any]] = modules


class PrismQuantizer(HfQuantizer):
    """Replaces linear layers by packed layers before transformers loads the weights."""

    quantization_config: PrismConfig
    requires_calibration = True  # models are compressed by `lsprism.compress`, not while they are loaded

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> PreTrainedModel:
        stored = _read_stored(checkpoint_files) if checkpoint_files else None
        self.transposed: set[str] = set()  # modules whose class stores [in, out]
        known = {name for name, _ in model.named_modules()}
        modules = {}
        for name, entry in self.quantization_config.modules.items():
            spellings = _list_spellings(name, model.base_model_prefix)
            here = next((path for path in spellings if path in known), name)
            packed = _make_empty_module(model, here, entry)
            if stored is not None:
                _check_stored(name, packed, next((stored[path] for path in spellings if path in stored), {}))
            if isinstance(model.get_submodule(here), Conv1D):
                self.transposed.add(here)
            replace_module(model, here, packed)
            modules[here] = entry
        self.quantization_config.modules = modules  # with the names in this model class, so that it can be saved
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for name in self.quantization_config.modules:
            module = model.get_submodule(name)
            assert isinstance(module, PrismLinear)
            bitmap = getattr(module, "bitmap", None)
            if bitmap is not None and not bitmap.is_meta and _count_ones(bitmap) != module.weight.numel():
                raise DamagedError(f"{name}.bitmap does not mark {module.weight.numel()} entries.", REMEDY)
        for module in model.modules():
            if type(module) is nn.Linear:
                DenseLinear.convert(module)
        enable_fused_decode(model)
        return model

    def update_weight_conversions(self, weight_conversions: list, model: PreTrainedModel) -> list:
        """No conversions: an artifact's tensors have the model's own names."""
        return []

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Convert packed layers to dense linear layers; the model is then as large as the uncompressed one."""
        disable_fused_decode(model)
        for name in self.quantization_config.modules:
            packed = model.get_submodule(name)
            assert isinstance(packed, PrismLinear)
            replace_module(model, name, make_dense_module(packed, name in self.transposed))
        for module in model.modules():
            if isinstance(module, DenseLinear):
                module.release()
        if dtype not in (None, model.dtype):
            for parameter in model.parameters():  # not model.to(), which would also round the rotary frequencies
                parameter.data = parameter.data.to(dtype)
        return model


def make_dense_module(packed: PrismLinear, transposed: bool = False) -> nn.Linear | Conv1D:
    """The dense layer [rows, columns] equal to a packed one; `transposed`: as Conv1D, [columns, rows]."""
    weight = packed.form.to_dense()
    linear: nn.Linear | Conv1D
    with torch.device("meta"):
        if transposed:
            linear = Conv1D(packed.out_features, packed.in_features)
        else:
            linear = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
    linear.weight = nn.Parameter(weight.T.contiguous() if transposed else weight, requires_grad=False)
    if packed.bias is not None:
        linear.bias = nn.Parameter(packed.bias.detach(), requires_grad=False)
    return linear


def _list_spellings(name: str, prefix: str) -> tuple[str, ...]:
    """Paths of a module in different model classes: AutoModel has no prefix where AutoModelForCausalLM has one."""
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"


def _make_empty_module(model: PreTrainedModel, name: str, entry: dict[str, Any]) -> PrismLinear:
    try:
        old = model.get_submodule(name)
        budget = LayerBudget(kept=entry["kept"], rank=entry["rank"])
        form_name, values = entry["form"], entry.get("values", "float")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"config.json: the entry of {name} does not match the model ({error}).", REMEDY) from None
    if not is_linear(old):
        raise DamagedError(f"config.json: {name} is a {type(old).__name__}, not a linear layer.", REMEDY)
    rows, columns = old.weight.shape if isinstance(old, nn.Linear) else reversed(old.weight.shape)
    nonzeros = budget.kept - budget.rank * (rows + columns)
    if form_name not in PACKED or values not in VALUES or budget.rank < 0 or nonzeros < 0:
        raise DamagedError(f"config.json: {name} cannot have format {form_name!r} with {entry}.", REMEDY)
    site = Layer(name=name, block=0, rows=rows, columns=columns, bias=old.bias is not None)
    form = make_meta_packed(site, form_name, budget, old.weight.dtype, values)
    if (form.kept, form.rank) != (budget.kept, budget.rank):
        raise DamagedError(f"config.json: {name} cannot have format {form_name!r} with {entry}.", REMEDY)
    bias = None if old.bias is None else torch.empty(rows, dtype=old.bias.dtype, device="meta")
    return PrismLinear(form, bias)


def _read_stored(files: Iterable[str]) -> Stored:
    """Names, shapes and kinds of the stored tensors, from the headers alone."""
    found: Stored = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    owner, _, part = name.rpartition(".")
                    tensor = opened.get_slice(name)
                    found.setdefault(owner, {})[part] = tuple(tensor.get_shape()), _get_kind(tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            raise DamagedError(f"{path} cannot be read: {error}.", REMEDY) from None
    return found


def _check_stored(name: str, packed: PrismLinear, held: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise DamagedError unless exactly the tensors of this module are stored, in the expected shapes and kinds."""
    wanted = {part: (tuple(t.shape), _KINDS.get(t.dtype, "")) for part, t in packed.state_dict().items()}
    if held == wanted:
        return
    part = min(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key))
    if part not in held:
        raise DamagedError(f"The weights lack {name}.{part}.", REMEDY)
    if part not in wanted:
        raise DamagedError(f"Unexpected tensor {name}.{part} in the weights.", REMEDY)
    raise DamagedError(f"{name}.{part} is {held[part][0]}, but config.json requires {wanted[part][0]}.", REMEDY)


def _get_kind(stored: str) -> str:
    """The stored dtype if it is U8 or I8; empty for floating-point dtypes, which are converted on loading."""
    return stored if stored in _KINDS.values() else ""


def _count_ones(bitmap: Tensor) -> int:
    """Number of set bits in a uint8 tensor: adjacent bits are added in pairs, then in fours, then in eights."""
    bits = bitmap - ((bitmap >> 1) & 0x55)
    bits = (bits & 0x33) + ((bits >> 2) & 0x33)
    return int(((bits + (bits >> 4)) & 0x0F).sum())


if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:  # a second import of this file is harmless
    register_quantization_config(QUANT_METHOD)(PrismConfig)
    register_quantizer(QUANT_METHOD)(PrismQuantizer)
