"""One forward pass at a time: the whole prompt, then token by token.

The memory of a model is its KV cache, or the recurrent state of its architecture (Mamba, RWKV). A model without one
(GPT-1) reads the whole text again for every token.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lsprism.generation.cuda_graph import GraphedDecoder, capture_graph
from lsprism.generation.kv_cache import make_room
from lsprism.packed.compute_dtype import apply_compute_dtype

MEMORIES = ("past_key_values", "cache_params", "state")  # names of the memory, as argument and in the output


@dataclass(frozen=True)
class TextRead:
    """The memory of a model without a cache: all tokens [1, n] so far."""

    tokens: Tensor


DecodeState = Cache | GraphedDecoder | TextRead | list[Tensor]


def prefill(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, DecodeState]:
    """Read the prompt [1, n]. Returns the logits [vocab] of the next token and the memory for `decode_step`."""
    with apply_compute_dtype(model):
        logits, memory = _forward(model, input_ids, None)
    make_room(memory)
    return logits, memory


def decode_step(model: PreTrainedModel, token: int, memory: DecodeState) -> tuple[Tensor, DecodeState]:
    """Read one more token. Returns the logits [vocab] of the next token and the memory for the next step.

    A cache may be changed in place; on a CUDA device it is replaced by a Recorded one if possible.
    """
    if not isinstance(memory, GraphedDecoder):
        memory = capture_graph(model, memory) or memory
    if isinstance(memory, GraphedDecoder):
        return memory.decode_step(token), memory
    read = torch.tensor([[token]], device=model.device)
    if isinstance(memory, TextRead):
        return prefill(model, torch.cat([memory.tokens, read], dim=1))
    return _forward(model, read, memory)


# Inference mode per call: held over a yield, it would leak into other code of this thread between two tokens.
@torch.inference_mode()
def _forward(model: PreTrainedModel, input_ids: Tensor, memory: DecodeState | None) -> tuple[Tensor, DecodeState]:
    kind: type = type(model)
    known = _list_arguments(kind)
    name = next((name for name in MEMORIES if name in known), None)
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    if name is not None:
        options[name] = memory
    if isinstance(memory, Cache) and "position_ids" in known and (length := _count_tokens(memory)):
        options["position_ids"] = torch.full_like(input_ids, length)  # some architectures (Bamba) would restart at 0
    output = model(input_ids=input_ids, use_cache=name is not None, **options)
    after = getattr(output, name, None) if name else None
    return output.logits[0, -1], TextRead(input_ids) if after is None else after


@cache
def _list_arguments(kind: type[PreTrainedModel]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _count_tokens(cache: Cache) -> int:
    """Number of tokens in the cache; 0 if no layer counts them, because none needs positions."""
    try:
        return cache.get_seq_length()
    except ValueError:
        return 0
