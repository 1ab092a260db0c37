import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from lsprism.errors import NumericError
from lsprism.evaluation import perplexity as room
from lsprism.evaluation.perplexity import Perplexity, mean_of, nll_of_windows, perplexity

VOCABULARY = 24  # as the tiny Llama has
SHAPE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SHAPE |= dict(num_key_value_heads=2, intermediate_size=48, initializer_range=0.5, pad_token_id=0)


@pytest.fixture
def llama(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCABULARY, (5, 40), generator=torch.Generator().manual_seed(3))


def capped():
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=2.0)).eval()


def scaled():
    torch.manual_seed(0)
    return GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=4.0)).eval()


def multiplied():
    torch.manual_seed(0)
    return CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)).eval()


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5)
    return GPT2LMHeadModel(config).eval()


def mixture():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4)).eval()


@torch.no_grad()
def plain_loop(model, tokens: torch.Tensor) -> float:
    return math.exp(sum(model(input_ids=w[None], labels=w[None]).loss.item() for w in tokens) / len(tokens))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_equals_a_plain_loop_over_the_models_loss(llama, tokens, batch):
    found = perplexity(llama, tokens, batch)
    assert found.perplexity == pytest.approx(plain_loop(llama, tokens), rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(found.nll), rel=1e-12)
    assert (found.tokens, found.windows) == (5 * 39, 5)


@pytest.mark.parametrize("build", [capped, scaled, multiplied, gpt2, mixture])
def test_equals_a_plain_loop_whatever_follows_the_head(build, tokens):
    model = build()
    assert perplexity(model, tokens, 2).perplexity == pytest.approx(plain_loop(model, tokens), rel=1e-4)


@pytest.mark.parametrize(
    ("build", "plain"), [(capped, False), (scaled, False), (multiplied, False), (gpt2, True), (mixture, True)]
)
def test_sees_whether_anything_follows_the_head(build, plain, tokens):
    model = build()
    assert room._is_plain(model, tokens[:1]) is plain
    assert not model.base_model._forward_hooks and not model.get_output_embeddings()._forward_hooks


def test_uniform_logits_give_the_size_of_the_vocabulary(llama, tokens):
    llama.lm_head.weight.data.zero_()
    assert perplexity(llama, tokens).perplexity == pytest.approx(VOCABULARY, rel=1e-6)


def test_certainty_gives_one(llama, tokens):
    constant = torch.full_like(tokens, 7)
    llama.lm_head.weight.data.zero_()
    llama.lm_head.bias = torch.nn.Parameter(torch.eye(VOCABULARY)[7] * 100)
    assert perplexity(llama, constant).perplexity == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("build", [None, capped])
def test_size_of_chunks_changes_nothing(llama, tokens, build, monkeypatch):
    model = build() if build else llama
    whole = perplexity(model, tokens, 2).nll
    monkeypatch.setattr(room, "LOGITS_BYTES", 4 * VOCABULARY * 7)
    assert perplexity(model, tokens, 2).nll == pytest.approx(whole, rel=1e-6)


def test_head_never_sees_more_positions_than_a_chunk_holds(llama, tokens, monkeypatch):
    monkeypatch.setattr(room, "LOGITS_BYTES", 4 * VOCABULARY * 16)
    seen = []
    with llama.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel())):
        perplexity(llama, tokens, batch=5)
    assert max(seen) <= 16 * VOCABULARY
    assert sum(seen) == (5 * 39 + room.PROBE_TOKENS) * VOCABULARY


def test_windows_come_one_by_one_in_order(llama, tokens):
    sums = list(nll_of_windows(llama, tokens, batch=2))
    alone = [next(nll_of_windows(llama, window[None])) for window in tokens]
    assert sums == pytest.approx(alone, rel=1e-5)
    assert mean_of(sums, 40) == perplexity(llama, tokens, 2)


def test_nothing_stays_switched_between_windows(llama, tokens):
    walk = nll_of_windows(llama, tokens)
    next(walk)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    walk.close()


def test_low_precision_is_close_to_float32(llama, tokens):
    exact = perplexity(llama, tokens).perplexity
    assert perplexity(llama.to(torch.bfloat16), tokens).perplexity == pytest.approx(exact, rel=0.05)


def test_not_a_number_stops_at_its_window(llama, tokens):
    tokens[tokens == 9] = 10
    tokens[3, 20] = 9
    llama.model.embed_tokens.weight.data[9] = float("nan")
    walk = nll_of_windows(llama, tokens)
    assert all(math.isfinite(next(walk)) for _ in range(3))
    with pytest.raises(NumericError, match="window 4 of 5"):
        next(walk)
    with pytest.raises(NumericError):
        perplexity(llama, tokens, batch=5)


def test_beyond_float64_is_infinite_and_not_an_exception():
    assert mean_of([1e6], context=2) == Perplexity(perplexity=math.inf, nll=1e6, tokens=1, windows=1)
