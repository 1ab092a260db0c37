"""Keys and values of what was read, in buffers with room to spare.

transformers' own cache copies all of them for each new token. Here a token is written to its place, and all move only
where a buffer is full, to one of twice the size. As long as they are few, copying them is the faster way (measured: at
1,000 tokens of the demo model a third of the time, at 60 half as much again).
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

FEW = 192  # tokens
# Tokens: on a CUDA device buffers are multiples of it, and at least half of it is free at first (recorded.py).
ROOM = 256


def make_room(cache: object) -> None:
    """Let the layers of a growing cache grow in place; layers of other kinds are left as they are."""
    if type(cache) is DynamicCache:
        for layer in cache.layers:
            if type(layer) is DynamicLayer:
                layer.__class__ = RoomyLayer


def cache_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes that keys and values of so many tokens take at most: 2 x layers x their heads x width, with room to spare.

    Models that keep less (windows, latent or recurrent states) stay below it.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 0
    width = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    kept = getattr(config, "num_key_value_heads", None) or heads
    room = 2 * tokens if tokens > FEW else tokens
    if model.device.type == "cuda":
        room += 2 * ROOM
    return 2 * config.num_hidden_layers * kept * width * model.dtype.itemsize * room


class RoomyLayer(DynamicLayer):
    """`keys` and `values` [batch, heads, tokens, width] are what the buffers begin with."""

    buffers: tuple[Tensor | None, Tensor | None] = (None, None)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put new tokens behind those that are there; returns all of them."""
        before = self.get_seq_length()
        if before < FEW:
            return super().update(key_states, value_states)
        assert self.keys is not None and self.values is not None
        keys, values = self.buffers
        keys, self.keys = _append(keys, self.keys, before, key_states)
        values, self.values = _append(values, self.values, before, value_states)
        self.buffers = keys, values
        return self.keys, self.values


def _append(buffer: Tensor | None, old: Tensor, before: int, new: Tensor) -> tuple[Tensor, Tensor]:
    """The buffer, another one if that is too small or not that of `old` any more, and the tokens in it."""
    after = before + new.shape[2]
    if buffer is None or old.data_ptr() != buffer.data_ptr() or after > buffer.shape[2]:
        buffer = new.new_empty((*new.shape[:2], 2 * after, new.shape[3]))
        buffer.narrow(2, 0, before).copy_(old)
    buffer.narrow(2, before, after - before).copy_(new)
    return buffer, buffer.narrow(2, 0, after)
