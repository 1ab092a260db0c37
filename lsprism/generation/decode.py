"""One call of the model at a time: the whole prompt, then one token after the other."""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lsprism.generation.cache import make_room
from lsprism.generation.recorded import Recorded, recorded
from lsprism.layers.compute_dtype import reading_many


def prefill(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, Cache]:
    """Read the prompt [1, n]; logits [vocab] of the token after it, and the cache that `step` goes on with."""
    with reading_many(model):
        logits, cache = _forward(model, input_ids, None)
    make_room(cache)
    return logits, cache


def step(model: PreTrainedModel, token: int, cache: Cache | Recorded) -> tuple[Tensor, Cache | Recorded]:
    """Read one more token; logits [vocab] of the token after it, and what the next step goes on with.

    The cache is changed in place where its kind can; on a CUDA device a recorded step takes its place.
    """
    if not isinstance(cache, Recorded):
        cache = recorded(model, cache) or cache
    if isinstance(cache, Recorded):
        return cache.step(token), cache
    return _forward(model, torch.tensor([[token]], device=model.device), cache)


# The mode ends with the call: held over a yield it would leak into whatever the thread does between two tokens.
@torch.inference_mode()
def _forward(model: PreTrainedModel, input_ids: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
    output = model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[0, -1], output.past_key_values
