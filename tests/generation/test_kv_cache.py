"""A preallocated cache has the same content as that of transformers, after any operation."""

import pytest
import torch
from transformers import DynamicCache

from lsprism import api
from lsprism.generation import kv_cache as roomy

ROOM = 3


@pytest.fixture
def pair(monkeypatch):
    """The preallocated cache and that of transformers after the same prompt."""
    monkeypatch.setattr(roomy, "FEW", ROOM)
    torch.manual_seed(0)
    both = DynamicCache(), DynamicCache()
    feed(both, 2)
    roomy.make_room(both[0])
    assert type(both[0].layers[0]) is roomy.PreallocatedCacheLayer
    return both


def feed(both, tokens, batch=1):
    keys, values = torch.randn(2, batch, 2, tokens, 4)
    for layer in range(2):
        ours, theirs = (cache.update(keys + layer, values - layer, layer) for cache in both)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_tokens_one_by_one_and_several_at_once(pair):
    for tokens in [1] * 12 + [5, 1, 20, 1]:
        feed(pair, tokens)
    assert pair[0].get_seq_length() == pair[1].get_seq_length()


def test_a_token_is_written_in_place(pair):
    for _ in range(8):
        feed(pair, 1)
    layer = pair[0].layers[0]
    before = layer.keys.data_ptr()
    feed(pair, 1)
    assert layer.keys.data_ptr() == before


def test_cropped_reordered_and_reset(pair):
    for _ in range(6):
        feed(pair, 1)
    for cache in pair:
        cache.crop(-2)
    feed(pair, 1)
    for cache in pair:
        cache.batch_repeat_interleave(2)
    feed(pair, 1, batch=2)
    for cache in pair:
        cache.reset()
    for _ in range(6):
        feed(pair, 1)


@pytest.mark.parametrize("tokens", [7, roomy.FEW + 9])
def test_the_size_of_a_cache_is_predicted(tiny_folder, tokens):
    model = api.load(tiny_folder).model
    cache = DynamicCache()
    roomy.make_room(cache)
    with torch.no_grad():
        model(torch.full((1, tokens), 5, device=model.device), past_key_values=cache)
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    spare = 2 * roomy.ROOM * held / tokens if model.device.type == "cuda" else 0
    assert held <= roomy.estimate_cache_bytes(model, tokens) <= 2 * held + spare
