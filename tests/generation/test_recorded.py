"""A step over buffers of a fixed size says what a step over a growing cache says; on a card it is replayed as well."""

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM

from lsprism.generation import recorded
from lsprism.generation.decode import prefill, step
from lsprism.layers.kernels.dispatch import using

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPT = [1, 5, 6, 7, 9, 3]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).to(DEVICE)


def dynamic(model, tokens):
    """Logits after each of the tokens, all read at once."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([PROMPT + tokens], device=DEVICE)).logits[0, len(PROMPT) :]


def test_its_steps_agree_with_reading_everything_at_once(model, monkeypatch):
    """Through several buffers: each begins with what the one before it held."""
    monkeypatch.setattr(recorded, "ROOM", 4)
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    one, tokens = recorded.Recorded(model, cache), [3, 8, 4, 4, 9, 10, 5, 6, 7, 11, 3, 12]
    found = torch.stack([one.step(token) for token in tokens])
    torch.testing.assert_close(found, dynamic(model, tokens), rtol=1e-4, atol=1e-4)
    assert (one._graph is not None) == (DEVICE == "cuda")


def test_two_answers_take_turns(model):
    caches = [prefill(model, torch.tensor([PROMPT], device=DEVICE))[1] for _ in range(2)]
    left, right = (recorded.Recorded(model, cache) for cache in caches)
    found = []
    for a, b in ((3, 9), (8, 5), (4, 7)):
        found.append((left.step(a), right.step(b)))
    for side, tokens in enumerate(([3, 8, 4], [9, 5, 7])):
        exact = dynamic(model, tokens)
        torch.testing.assert_close(torch.stack([pair[side] for pair in found]), exact, rtol=1e-4, atol=1e-4)


def read(model):
    """The answer's first logits, by growing cache and by whatever `step` takes."""
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    found = []
    for token in (3, 8, 4):
        logits, cache = step(model, token, cache)
        found.append(logits)
    return cache, torch.stack(found)


def test_a_model_that_reads_no_buffers_of_fixed_size_goes_on_with_its_own(monkeypatch):
    """Falcon's alibi is as long as what was read."""
    config = FalconConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True)
    model = FalconForCausalLM(config).eval().to(DEVICE)
    monkeypatch.setattr(recorded, "recordable", lambda *_: True)
    for _ in range(2):
        cache, found = read(model)
        assert not isinstance(cache, recorded.Recorded) and model in recorded._refused
        torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded without a CUDA device")
def test_what_cannot_be_recorded_ends_on_the_stream_where_it_began(tiny_folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).to(DEVICE)
    plain, stream = recorded.Recorded._forward, torch.cuda.current_stream()

    def asking(self):
        logits = plain(self)
        logits[0].item()  # waits for the device, which no recording can
        return logits

    monkeypatch.setattr(recorded.Recorded, "_forward", asking)
    cache, found = read(model)
    assert not isinstance(cache, recorded.Recorded) and torch.cuda.current_stream() == stream
    torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)


def on_a_card(model, monkeypatch):
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))


def test_only_where_it_may(model, monkeypatch):
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    if DEVICE == "cpu":
        assert not recorded.recordable(model, cache)
        on_a_card(model, monkeypatch)
    assert recorded.recordable(model, cache)
    with using("reference"):
        assert not recorded.recordable(model, cache)
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    assert not recorded.recordable(model, cache), "which would read the empty places as well"
    monkeypatch.setattr(model.config, "_attn_implementation", "sdpa")
    assert recorded.recordable(model, cache)
    monkeypatch.setattr(model, "hf_device_map", {"": "cpu"}, raising=False)
    assert not recorded.recordable(model, cache)


def test_not_a_model_that_forgets(monkeypatch):
    """A sliding window is another kind of buffer."""
    config = MistralConfig(vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                           num_attention_heads=4, num_key_value_heads=2, sliding_window=4)  # fmt: skip
    model = MistralForCausalLM(config).to(DEVICE)
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    on_a_card(model, monkeypatch)
    assert not recorded.recordable(model, cache)


def test_the_decode_loop_takes_this_way(model, monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(recorded, "recordable", lambda *_: True)
    cache, found = read(model)
    assert isinstance(cache, recorded.Recorded)
    torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)
