"""On a CUDA device: one token's step, recorded once as a CUDA graph and replayed for each further token.

A step of a model's own code is hundreds of small kernels, and starting them one by one from Python takes several times
as long as they take. A recording needs everything in its place, so keys and values lie in buffers of a fixed size;
where those are full, longer ones take their place and the step is recorded anew.
"""

import logging
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from lsprism.generation.cache import ROOM, RoomyLayer
from lsprism.layers.kernels.dispatch import chosen

_refused: WeakSet[PreTrainedModel] = WeakSet()  # by models whose code it turned out not to be for

logger = logging.getLogger("lsprism.generation")


def recorded(model: PreTrainedModel, cache: object) -> "Recorded | None":
    """What stands for the cache from here on; None where this way is not for the model."""
    if model in _refused or not isinstance(cache, Cache) or not recordable(model, cache):
        return None
    try:
        return Recorded(model, cache)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        logger.info("A step of %s cannot be recorded: %s", type(model).__name__, error)
        _refused.add(model)
        return None


def recordable(model: PreTrainedModel, cache: Cache) -> bool:
    """The model lies on one CUDA device, its code can be recorded, and its cache is keys and values of all tokens."""
    return (
        model.device.type == "cuda"
        and chosen() == "auto"
        and not hasattr(model, "hf_device_map")
        and getattr(model, "_can_compile_fullgraph", False)
        and model.config.get_text_config()._attn_implementation in ("eager", "sdpa")  # they heed the empty places
        and type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)
    )


class Recorded:
    """Stands for the cache [1 sequence] that a prompt left behind, which is copied.

    Raises a RuntimeError, or what else the model's code runs into, where a step cannot be recorded.
    """

    _graph: torch.cuda.CUDAGraph | None

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, cache: Cache) -> None:
        self._model = model
        self._length = cache.get_seq_length()
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        self._move(_held(cache))

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Read one more token; logits [vocab] of the token after it."""
        if self._length == self._room:
            self._move(_held(self._cache))
        self._token.fill_(token)
        self._length += 1
        if self._graph is None:  # without a card
            return self._forward()
        self._graph.replay()
        return self._logits.clone()

    def _move(self, filled: list[tuple[Tensor, Tensor]]) -> None:
        """To buffers with room for more than the keys and values that there are."""
        self._room = -(-(self._length + ROOM // 2) // ROOM) * ROOM
        self._cache, self._graph = StaticCache(self._model.config, max_cache_len=self._room), None
        if any(type(layer) is not StaticLayer for layer in self._cache.layers):
            raise TypeError("a layer keeps less than all tokens")
        for layer, (keys, values) in zip(self._cache.layers, filled, strict=True):
            assert isinstance(layer, StaticLayer)
            layer.update(keys[:, :, : self._length], values[:, :, : self._length])
        self._record()

    def _forward(self) -> Tensor:
        output = self._model(input_ids=self._token, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1]

    def _record(self) -> None:
        """A step is tried, so that all that it makes on first use is there, undone, and on a card recorded."""
        if not self._token.is_cuda:
            self._try()
            return
        here = torch.cuda.current_stream(self._token.device)
        with torch.cuda.device(self._token.device), torch.cuda.stream(here):  # where even a failure ends
            aside = torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self._try()
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                self._logits = self._forward()
        self._graph = graph

    def _try(self) -> None:
        self._forward()
        for layer in self._cache.layers:
            assert isinstance(layer, StaticLayer) and isinstance(layer.cumulative_length, Tensor)
            layer.cumulative_length.fill_(self._length)


def _held(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the layers."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer | StaticLayer)]
    return [(one.keys, one.values) for one in layers if one.keys is not None and one.values is not None]
