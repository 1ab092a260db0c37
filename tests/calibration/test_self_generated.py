"""Self-generated calibration text."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from lsprism.calibration.self_generated import generate_windows
from lsprism.specs import CalibrationSpec


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def test_windows_have_the_requested_shape_and_depend_on_the_seed(model):
    first = generate_windows(model, CalibrationSpec(samples=5, length=12, seed=3), [1, 2])
    torch.manual_seed(99)
    again = generate_windows(model, CalibrationSpec(samples=5, length=12, seed=3), [1, 2])
    other = generate_windows(model, CalibrationSpec(samples=5, length=12, seed=4), [1, 2])
    assert first.shape == (5, 12) and first.dtype == torch.int64
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_texts_neither_end_early_nor_contain_special_tokens(model):
    texts = generate_windows(model, CalibrationSpec(samples=16, length=24, seed=0), [1, 2])
    assert not torch.isin(texts, torch.tensor([1, 2])).any()


def test_texts_follow_the_models_distribution(model):
    """The model assigns its own samples a higher likelihood than random tokens."""
    own = generate_windows(model, CalibrationSpec(samples=32, length=24, seed=0), [])
    chance = torch.randint(model.config.vocab_size, own.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(own, labels=own).loss < model(chance, labels=chance).loss - 0.1


def test_the_global_random_state_is_unchanged(model):
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    generate_windows(model, CalibrationSpec(samples=2, length=8, seed=0), [])
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 2, "do_sample": True},
        {"return_dict_in_generate": True, "output_scores": True},
        {"num_beams": 3},
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"min_p": 0.9, "typical_p": 0.1, "top_h": 0.1},
        {"bad_words_ids": [[4]], "forced_eos_token_id": 2, "max_length": 9},
        {"do_sample": False, "temperature": 0.6},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_models_generation_config_is_ignored(model, monkeypatch, settings):
    asked = CalibrationSpec(samples=4, length=24)
    wanted = generate_windows(model, asked, [1, 2])
    own = GenerationConfig(eos_token_id=2, **settings)
    monkeypatch.setattr(model, "generation_config", own)
    assert torch.equal(generate_windows(model, asked, [1, 2]), wanted)
    assert model.generation_config is own
