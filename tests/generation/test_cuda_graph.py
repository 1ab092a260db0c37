"""A step with a fixed-size cache gives the same as with a growing one; on a GPU it is also replayed."""

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM

from lsprism.generation import cuda_graph
from lsprism.generation.decode import decode_step, prefill
from lsprism.packed.kernels.dispatch import use_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPT = [1, 5, 6, 7, 9, 3]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).to(DEVICE)


def dynamic(model, tokens):
    """Logits after each token, from one pass over all tokens."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([PROMPT + tokens], device=DEVICE)).logits[0, len(PROMPT) :]


def test_steps_equal_one_pass_over_the_text(model, monkeypatch):
    """With several buffers: each starts with the content of the previous one."""
    monkeypatch.setattr(cuda_graph, "ROOM", 4)
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    one, tokens = cuda_graph.GraphedDecoder(model, cache), [3, 8, 4, 4, 9, 10, 5, 6, 7, 11, 3, 12]
    found = torch.stack([one.decode_step(token) for token in tokens])
    torch.testing.assert_close(found, dynamic(model, tokens), rtol=1e-4, atol=1e-4)
    assert (one._graph is not None) == (DEVICE == "cuda")


def test_two_answers_can_be_interleaved(model):
    caches = [prefill(model, torch.tensor([PROMPT], device=DEVICE))[1] for _ in range(2)]
    left, right = (cuda_graph.GraphedDecoder(model, cache) for cache in caches)
    found = []
    for a, b in ((3, 9), (8, 5), (4, 7)):
        found.append((left.decode_step(a), right.decode_step(b)))
    for side, tokens in enumerate(([3, 8, 4], [9, 5, 7])):
        exact = dynamic(model, tokens)
        torch.testing.assert_close(torch.stack([pair[side] for pair in found]), exact, rtol=1e-4, atol=1e-4)


def read(model):
    """The first logits, with a growing cache and with the one that `decode_step` chooses."""
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    found = []
    for token in (3, 8, 4):
        logits, cache = decode_step(model, token, cache)
        found.append(logits)
    return cache, torch.stack(found)


def test_a_model_without_fixed_size_support_keeps_its_cache(monkeypatch):
    """Falcon's alibi has the length of the text."""
    config = FalconConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True)
    model = FalconForCausalLM(config).eval().to(DEVICE)
    monkeypatch.setattr(cuda_graph, "is_capturable", lambda *_: True)
    for _ in range(2):
        cache, found = read(model)
        assert not isinstance(cache, cuda_graph.GraphedDecoder) and model in cuda_graph._refused
        torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded without a CUDA device")
def test_a_failed_recording_restores_the_stream(tiny_folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).to(DEVICE)
    plain, stream = cuda_graph.GraphedDecoder._forward, torch.cuda.current_stream()

    def asking(self):
        logits = plain(self)
        logits[0].item()  # synchronizes, which a recording does not allow
        return logits

    monkeypatch.setattr(cuda_graph.GraphedDecoder, "_forward", asking)
    cache, found = read(model)
    assert not isinstance(cache, cuda_graph.GraphedDecoder) and torch.cuda.current_stream() == stream
    torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)


def on_a_card(model, monkeypatch):
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))


def test_requirements_of_a_recording(model, monkeypatch):
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    if DEVICE == "cpu":
        assert not cuda_graph.is_capturable(model, cache)
        on_a_card(model, monkeypatch)
    assert cuda_graph.is_capturable(model, cache)
    with use_kernel("reference"):
        assert not cuda_graph.is_capturable(model, cache)
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    assert not cuda_graph.is_capturable(model, cache), "it would attend to unused positions"
    monkeypatch.setattr(model.config, "_attn_implementation", "sdpa")
    assert cuda_graph.is_capturable(model, cache)
    monkeypatch.setattr(model, "hf_device_map", {"": "cpu"}, raising=False)
    assert not cuda_graph.is_capturable(model, cache)


def test_sliding_windows_are_not_recorded(monkeypatch):
    """A sliding window uses another kind of buffer."""
    config = MistralConfig(vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                           num_attention_heads=4, num_key_value_heads=2, sliding_window=4)  # fmt: skip
    model = MistralForCausalLM(config).to(DEVICE)
    _, cache = prefill(model, torch.tensor([PROMPT], device=DEVICE))
    on_a_card(model, monkeypatch)
    assert not cuda_graph.is_capturable(model, cache)


def test_the_decode_loop_uses_recordings(model, monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(cuda_graph, "is_capturable", lambda *_: True)
    cache, found = read(model)
    assert isinstance(cache, cuda_graph.GraphedDecoder)
    torch.testing.assert_close(found, dynamic(model, [3, 8, 4]), rtol=1e-4, atol=1e-4)
