"""From logits to a token: each setting, compared with transformers, and reproducible samples."""

import math

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lsprism.errors import NumericError
from lsprism.generation.sampler import Sampler, apply_repetition_penalty, filter_top_k, filter_top_p
from lsprism.specs import GenerateSpec

PLAIN = {"temperature": 1.0, "top_p": 1.0}
HALVES = torch.tensor([0.125, 0.5, 0.125, 0.25]).log()  # logits whose softmax is exactly these


def probabilities(logits, seen=(), **settings):
    sampler = Sampler(GenerateSpec(**{**PLAIN, **settings}))
    sampler.add_seen(torch.tensor(seen, dtype=torch.int64))
    return sampler.compute_probabilities(torch.as_tensor(logits))


def draws(sampler, logits, n):
    return [sampler.sample(logits) for _ in range(n)]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.3},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 10_000},
        {"top_p": 0.001},
        {"top_p": 0.5},
        {"top_p": 0.95},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_agrees_with_transformers(settings):
    spec, steps = GenerateSpec(**{**PLAIN, **settings}), LogitsProcessorList()
    steps.append(RepetitionPenaltyLogitsProcessor(spec.repetition_penalty))
    steps.append(TemperatureLogitsWarper(spec.temperature))
    if spec.top_k:
        steps.append(TopKLogitsWarper(spec.top_k))
    if spec.top_p < 1:
        steps.append(TopPLogitsWarper(spec.top_p))
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 6.0):
        logits = torch.randn(300, generator=generator) * scale
        seen = torch.randint(300, (50,), generator=generator)
        ours, theirs = probabilities(logits, seen.tolist(), **settings), steps(seen[None], logits[None])[0].softmax(-1)
        assert torch.equal(ours > 0, theirs > 0)
        torch.testing.assert_close(ours, theirs)


def test_temperature_divides_the_logits():
    cold, warm = probabilities(HALVES, temperature=0.5), probabilities(HALVES, temperature=2.0)
    assert (cold[1] / cold[0]).item() == pytest.approx(4**2)
    assert (warm[1] / warm[0]).item() == pytest.approx(4**0.5)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_temperature_close_to_zero_is_greedy(temperature):
    assert probabilities([3.0, 50.0, -50.0, 49.0], temperature=temperature).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(("k", "kept"), [(1, [1]), (2, [1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_top_k_keeps_the_k_most_likely(k, kept):
    assert filter_top_k(HALVES, k).isfinite().nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize(("p", "kept"), [(1e-9, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.87, 3), (0.88, 4)])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(p, kept):
    scores = filter_top_p(HALVES, p)
    assert scores.isfinite().sum() == kept
    assert scores.exp().sum() >= p


def test_top_p_keeps_one_of_a_flat_distribution():
    assert filter_top_p(torch.zeros(1000), 1e-12).isfinite().sum() == 1


def test_kept_tokens_are_normalized():
    assert probabilities(HALVES, top_k=2).tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])
    assert probabilities(HALVES, top_p=0.6).tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    scores = apply_repetition_penalty(torch.tensor([2.0, -2.0, 2.0, -2.0]), torch.tensor([0, 1, 1]), 2.0)
    assert scores.tolist() == [1.0, -4.0, 2.0, -2.0]


def test_the_penalty_applies_to_prompt_and_output():
    sampler = Sampler(GenerateSpec(greedy=True, repetition_penalty=2.0))
    sampler.add_seen(torch.tensor([0]))
    assert draws(sampler, torch.tensor([4.0, 3.0, 2.5]), 3) == [1, 2, 0]


def test_greedy_ignores_the_other_settings():
    assert draws(Sampler(GenerateSpec(greedy=True, temperature=100, seed=3)), HALVES, 20) == [1] * 20


def test_draws_follow_the_probabilities():
    n = 4000
    picks = torch.tensor(draws(Sampler(GenerateSpec(**PLAIN)), HALVES, n)).bincount(minlength=4)
    for share, expected in zip((picks / n).tolist(), HALVES.exp().tolist(), strict=True):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_an_excluded_token_is_never_sampled():
    logits = torch.full((5000,), float("-inf"))
    logits[[17, 4000]] = torch.tensor([0.0, -1.0])
    assert set(draws(Sampler(GenerateSpec(**PLAIN)), logits, 300)) == {17, 4000}


def test_the_extreme_samples_are_possible_tokens(monkeypatch):
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    for point, token in [(0.0, 1), (0.5, 3), (1 - 2**-53, 3), (1.0, 3)]:
        monkeypatch.setattr(torch, "rand", lambda *a, point=point, **k: torch.tensor(point, dtype=torch.float64))
        assert Sampler(GenerateSpec(**PLAIN)).sample(logits) == token


def test_a_seed_is_independent_of_the_global_generator():
    logits, spec = torch.randn(500, generator=torch.Generator().manual_seed(5)), GenerateSpec(seed=11)
    alone = draws(Sampler(spec), logits, 20)
    disturbed, sampler = [], Sampler(spec)
    for n in range(20):
        torch.manual_seed(n)
        torch.rand(n)
        disturbed.append(sampler.sample(logits))
    state = torch.get_rng_state()
    other = draws(Sampler(GenerateSpec(seed=12)), logits, 20)
    assert disturbed == alone != other
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_logits_are_processed_in_float32():
    logits = torch.randn(100, generator=torch.Generator().manual_seed(2)).bfloat16()
    ours = probabilities(logits, temperature=0.7)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, (logits.float() / 0.7).softmax(-1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("greedy", [True, False])
def test_nan_logits_are_an_error(value, greedy):
    with pytest.raises(NumericError, match=str(value)):
        Sampler(GenerateSpec(greedy=greedy)).sample(torch.tensor([0.0, value, 1.0]))
