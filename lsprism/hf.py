"""Registers our format with transformers: after `import lsprism.hf` AutoModelForCausalLM.from_pretrained, pipelines
and save_pretrained know artifacts. Nothing is decompressed: the packed tensors are what is in memory."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lsprism.artifact.manifest import FORMAT, QUANT_METHOD, check_format
from lsprism.errors import DamagedError
from lsprism.layers.modules import PrismLinear, empty_form
from lsprism.models.anatomy import is_linear
from lsprism.models.surgery import place
from lsprism.reports import LayerBudget, LinearSite


class PrismConfig(QuantizationConfigMixin):
    """`modules`: path -> {"form", "kept", "rank"}; `format`: number of the layout on disk."""

    def __init__(self, modules: dict[str, dict[str, Any]] | None = None, format: int = FORMAT, **_: Any) -> None:
        check_format(format, Path("config.json"))
        self.quant_method = QUANT_METHOD
        self.format = format
        self.modules = modules or {}


class PrismQuantizer(HfQuantizer):
    """Puts packed modules into the skeleton before transformers loads the weights."""

    requires_calibration = True  # models are compressed by `lsprism.compress`, never while they load

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for name, entry in self.quantization_config.modules.items():
            place(model, name, _empty_module(model, name, entry))
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Multiply every form out into a plain linear layer: loads anywhere, and is as large as the baseline."""
        for name in self.quantization_config.modules:
            place(model, name, dense_module(model.get_submodule(name), dtype))
        return model


def dense_module(packed: PrismLinear, dtype: torch.dtype | None = None) -> nn.Linear:
    """The linear layer [rows, columns] that a packed module stands for."""
    weight = packed.form.dense()
    linear = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(dtype or weight.dtype), requires_grad=False)
    if packed.bias is not None:
        linear.bias = nn.Parameter(packed.bias.to(dtype or packed.bias.dtype), requires_grad=False)
    return linear


def _empty_module(model: PreTrainedModel, name: str, entry: dict[str, Any]) -> PrismLinear:
    try:
        old = model.get_submodule(name)
        budget = LayerBudget(kept=entry["kept"], rank=entry["rank"])
        form = entry["form"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"config.json: the entry of {name} does not fit the model ({error}).", _REMEDY) from None
    if not is_linear(old):
        raise DamagedError(f"config.json: {name} is a {type(old).__name__}, not a linear layer.", _REMEDY)
    rows, columns = old.weight.shape if isinstance(old, nn.Linear) else reversed(old.weight.shape)
    site = LinearSite(name=name, block=0, rows=rows, columns=columns, bias=old.bias is not None)
    bias = None if old.bias is None else torch.empty(rows, dtype=old.bias.dtype, device="meta")
    return PrismLinear(empty_form(site, form, budget, old.weight.dtype), bias)


_REMEDY = "Copy the artifact again, or compress the model again."

if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:  # a second import of this file is harmless
    register_quantization_config(QUANT_METHOD)(PrismConfig)
    register_quantizer(QUANT_METHOD)(PrismQuantizer)
