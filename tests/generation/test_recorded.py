"""A step over buffers of a fixed size says what a step over a growing cache says; on a card it is replayed as well."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

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


def test_what_cannot_be_recorded_goes_on_step_by_step(model, monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    if DEVICE == "cpu":
        pytest.skip("nothing is recorded without a CUDA device")
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    one = recorded.Recorded(model, prefill(model, torch.tensor([PROMPT], device=DEVICE))[1])
    found = torch.stack([one.step(token) for token in (3, 8, 4)])
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
    logits, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    if DEVICE == "cpu":
        monkeypatch.setattr("lsprism.generation.decode.recordable", lambda *_: True)
    tokens, found = [3, 8, 4], []
    for token in tokens:
        logits, cache = step(model, token, cache)
        assert isinstance(cache, recorded.Recorded)
        found.append(logits)
    torch.testing.assert_close(torch.stack(found), dynamic(model, tokens), rtol=1e-4, atol=1e-4)
