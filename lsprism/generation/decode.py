"""One call of the model at a time: the whole prompt, then one token after the other.

What a model remembers of the text is its cache of keys and values, or the state that its family has instead (Mamba,
RWKV). One that remembers nothing (GPT-1) reads the whole text again for every token.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lsprism.generation.cache import make_room
from lsprism.generation.recorded import Recorded, recorded
from lsprism.layers.compute_dtype import reading_many

MEMORIES = ("past_key_values", "cache_params", "state")  # what families call it, as argument and as output


@dataclass(frozen=True)
class TextRead:
    """For a model that remembers nothing: all tokens [1, n] so far."""

    tokens: Tensor


Memory = Cache | Recorded | TextRead | list[Tensor]


def prefill(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, Memory]:
    """Read the prompt [1, n]; logits [vocab] of the token after it, and the memory that `step` goes on with."""
    with reading_many(model):
        logits, memory = _forward(model, input_ids, None)
    make_room(memory)
    return logits, memory


def step(model: PreTrainedModel, token: int, memory: Memory) -> tuple[Tensor, Memory]:
    """Read one more token; logits [vocab] of the token after it, and what the next step goes on with.

    A cache is changed in place where its kind can; on a CUDA device a recorded step takes its place.
    """
    if not isinstance(memory, Recorded):
        memory = recorded(model, memory) or memory
    if isinstance(memory, Recorded):
        return memory.step(token), memory
    read = torch.tensor([[token]], device=model.device)
    if isinstance(memory, TextRead):
        return prefill(model, torch.cat([memory.tokens, read], dim=1))
    return _forward(model, read, memory)


# The mode ends with the call: held over a yield it would leak into whatever the thread does between two tokens.
@torch.inference_mode()
def _forward(model: PreTrainedModel, input_ids: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    kind: type = type(model)
    known = _arguments_of(kind)
    name = next((name for name in MEMORIES if name in known), None)
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    if name is not None:
        options[name] = memory
    if isinstance(memory, Cache) and "position_ids" in known and (length := _length(memory)):
        options["position_ids"] = torch.full_like(input_ids, length)  # some families (Bamba) would count from 0 again
    output = model(input_ids=input_ids, use_cache=name is not None, **options)
    after = getattr(output, name, None) if name else None
    return output.logits[0, -1], TextRead(input_ids) if after is None else after


@cache
def _arguments_of(kind: type[PreTrainedModel]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _length(cache: Cache) -> int:
    """Tokens in it; 0 where no layer counts them, because none needs positions."""
    try:
        return cache.get_seq_length()
    except ValueError:
        return 0
