"""CUDA graphs for decoding: the step of one token is recorded once and replayed for each further token.

A step of a model's own code consists of hundreds of small kernels, and launching them from Python takes several times
as long as running them. A graph needs fixed addresses, so the KV cache has buffers of a fixed size; when these are
full, they are replaced by longer ones and the step is recorded again.
"""

import logging
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from lsprism.generation.kv_cache import ROOM, PreallocatedCacheLayer
from lsprism.models.transformers_private import can_compile, get_attention
from lsprism.packed.kernels.dispatch import get_active_kernel

_refused: WeakSet[PreTrainedModel] = WeakSet()  # models whose step could not be recorded

logger = logging.getLogger("lsprism.generation")


def capture_graph(model: PreTrainedModel, cache: object) -> "GraphedDecoder | None":
    """A replacement for the cache; None if the model's step cannot be recorded."""
    if model in _refused or not isinstance(cache, Cache) or not is_capturable(model, cache):
        return None
    try:
        return GraphedDecoder(model, cache)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        logger.info("A step of %s cannot be recorded: %s", type(model).__name__, error)
        _refused.add(model)
        return None


def is_capturable(model: PreTrainedModel, cache: Cache) -> bool:
    """Whether the model is on one CUDA device, supports graphs, and its cache stores keys and values of all tokens."""
    return (
        model.device.type == "cuda"
        and get_active_kernel() == "auto"
        and not hasattr(model, "hf_device_map")
        and can_compile(model)
        and get_attention(model.config.get_text_config()) in ("eager", "sdpa")  # they mask unused positions
        and type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, PreallocatedCacheLayer) for layer in cache.layers)
    )


class GraphedDecoder:
    """Replaces the cache of a prompt (1 sequence), which is copied.

    Raises RuntimeError, or another error of the model's code, if a step cannot be recorded.
    """

    _graph: torch.cuda.CUDAGraph | None

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, cache: Cache) -> None:
        self._model = model
        self._length = cache.get_seq_length()
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        self._move(_get_tensors(cache))

    @torch.inference_mode()
    def decode_step(self, token: int) -> Tensor:
        """Read one more token; returns the logits [vocab] of the next one."""
        if self._length == self._room:
            self._move(_get_tensors(self._cache))
        self._token.fill_(token)
        self._length += 1
        if self._graph is None:  # on the CPU, in tests
            return self._forward()
        self._graph.replay()
        return self._logits.clone()

    def _move(self, filled: list[tuple[Tensor, Tensor]]) -> None:
        """Move keys and values to larger buffers, and record the step again."""
        self._room = -(-(self._length + ROOM // 2) // ROOM) * ROOM
        self._cache, self._graph = StaticCache(self._model.config, max_cache_len=self._room), None
        if any(type(layer) is not StaticLayer for layer in self._cache.layers):
            raise TypeError("a layer keeps less than all tokens")
        for layer, (keys, values) in zip(self._cache.layers, filled, strict=True):
            assert isinstance(layer, StaticLayer)
            layer.update(keys[:, :, : self._length], values[:, :, : self._length])
        self._capture()

    def _forward(self) -> Tensor:
        output = self._model(input_ids=self._token, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1]

    def _capture(self) -> None:
        """Run a step once as a warmup, undo it, and record it if on a GPU."""
        if not self._token.is_cuda:
            self._run_once()
            return
        here = torch.cuda.current_stream(self._token.device)
        with torch.cuda.device(self._token.device), torch.cuda.stream(here):  # restores the stream even on failure
            aside = torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self._run_once()
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                self._logits = self._forward()
        self._graph = graph

    def _run_once(self) -> None:
        self._forward()
        for layer in self._cache.layers:
            assert isinstance(layer, StaticLayer) and isinstance(layer.cumulative_length, Tensor)
            layer.cumulative_length.fill_(self._length)


def _get_tensors(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the layers."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer | StaticLayer)]
    return [(one.keys, one.values) for one in layers if one.keys is not None and one.values is not None]
