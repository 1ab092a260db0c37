"""Forward passes: prefill and step give the same as one pass over the whole text."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lsprism.generation.decode import decode_step, prefill

PROMPT = [1, 5, 6, 7, 9, 3]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


def test_a_step_after_prefill_equals_reading_everything_at_once(model):
    logits, cache = prefill(model, torch.tensor([PROMPT[:3]]))
    assert logits.shape == (model.config.vocab_size,)
    for token in PROMPT[3:]:
        logits, cache = decode_step(model, token, cache)
    whole, _ = prefill(model, torch.tensor([PROMPT]))
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == len(PROMPT)


def test_inference_mode_ends_with_the_call(model):
    logits, _ = prefill(model, torch.tensor([PROMPT]))
    assert logits.is_inference()
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
