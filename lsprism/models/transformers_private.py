"""Everything that the package uses of transformers but its documentation does not promise, with the reason.

A new version of transformers is checked here first: tests/models/test_transformers_private.py names the versions that
were tested.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    build_glob_alternation,
    dot_natural_key,
    rename_source_key,
)
from transformers.integrations.gguf import get_gguf_tokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

__all__ = [
    "CONFIG_MAPPING_NAMES",  # to say which architectures exist before a config is built
    "WeightConverter",  # weights are read block by block, with the renames and merges of `from_pretrained`
    "WeightRenaming",
    "build_glob_alternation",
    "can_compile",
    "disable_attention_outputs",
    "dot_natural_key",
    "get_attention",
    "get_dtype_plan",
    "get_gguf_tokenizer",  # the tokenizer of a .gguf file without its weights
    "get_ignored_keys",
    "get_model_conversion_mapping",
    "mark_initialized",
    "rename_source_key",
]


def mark_initialized(parameter: nn.Parameter) -> None:
    """Let `initialize_weights` skip a parameter: a model on the meta device needs only its buffers."""
    parameter._is_hf_initialized = True  # type: ignore[attr-defined]


def get_dtype_plan(model: PreTrainedModel, dtype: torch.dtype) -> Sequence[str]:
    """Patterns of the tensors that the architecture keeps in float32 when it is loaded in `dtype`."""
    return list(model._get_dtype_plan(dtype))


def get_ignored_keys(model: PreTrainedModel) -> set[str]:
    """Patterns of stored tensors that the architecture expects and does not use."""
    return set(model._keys_to_ignore_on_load_unexpected or ())


def get_attention(config: PreTrainedConfig) -> str | None:
    """The attention implementation in use; decides whether a decode step may be recorded or fused."""
    return config._attn_implementation


def can_compile(model: PreTrainedModel) -> bool:
    """Whether the architecture declares that its forward pass has no branches that depend on the input."""
    return bool(getattr(model, "_can_compile_fullgraph", False))


def disable_attention_outputs(config: PreTrainedConfig) -> None:
    """The public setter would check the value against the attention implementation."""
    config._output_attentions = False
