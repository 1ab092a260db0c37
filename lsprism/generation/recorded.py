"""On a CUDA device: one token's step, recorded once as a CUDA graph and replayed for each further token.

A step of a model's own code is hundreds of small kernels, and starting them one by one from Python takes several times
as long as they take. A recording needs everything in its place, so keys and values lie in buffers of a fixed size;
where those are full, longer ones take their place and the step is recorded anew.
"""

import logging

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from lsprism.generation.cache import ROOM, RoomyLayer
from lsprism.layers.kernels.dispatch import chosen

logger = logging.getLogger("lsprism.generation")


def recordable(model: PreTrainedModel, cache: Cache) -> bool:
    """The model lies on one CUDA device, its code can be recorded, and its cache is keys and values of all tokens."""
    return (
        model.device.type == "cuda"
        and chosen() == "auto"
        and not hasattr(model, "hf_device_map")
        and getattr(model, "_can_compile_fullgraph", False)
        and type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)
        and all(type(layer) is StaticLayer for layer in StaticCache(model.config, max_cache_len=ROOM).layers)
    )


class Recorded:
    """Stands for the cache [1 sequence] that a prompt left behind, which is copied."""

    def __init__(self, model: PreTrainedModel, cache: Cache) -> None:
        self._model = model
        self._length = cache.get_seq_length()
        self._recording = model.device.type == "cuda"
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        self._move([(layer.keys, layer.values) for layer in cache.layers])

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Read one more token; logits [vocab] of the token after it."""
        if self._length == self._room:
            self._move([(layer.keys, layer.values) for layer in self._cache.layers])
        self._token.fill_(token)
        self._length += 1
        if self._graph is not None:
            self._graph.replay()
            return self._logits.clone()
        return self._record() if self._recording else self._forward()

    def _move(self, filled: list[tuple[Tensor, Tensor]]) -> None:
        """To buffers with room for more than the keys and values that there are."""
        self._room = -(-(self._length + ROOM // 2) // ROOM) * ROOM
        self._cache, self._graph, self._logits = StaticCache(self._model.config, max_cache_len=self._room), None, None
        for layer, (keys, values) in zip(self._cache.layers, filled, strict=True):
            layer.update(keys[:, :, : self._length], values[:, :, : self._length])

    def _forward(self) -> Tensor:
        output = self._model(input_ids=self._token, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1]

    def _record(self) -> Tensor:
        """Take the step, then record it for the next ones; what cannot be recorded is taken one by one."""
        with torch.cuda.device(self._token.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                logits = self._forward()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=aside):
                    self._logits = self._forward()
            except RuntimeError as error:
                logger.info("A step of %s cannot be recorded: %s", type(self._model).__name__, error)
                self._recording = False
            else:
                self._graph = graph
        return logits
