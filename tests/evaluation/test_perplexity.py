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

from lsprism.calibration.corpus import Corpus, read_text
from lsprism.errors import CorpusError, NumericError, SpecError
from lsprism.evaluation import likelihood
from lsprism.evaluation.likelihood import safe_exp
from lsprism.evaluation.perplexity import compute_perplexity, iter_window_nll, stream_perplexity
from lsprism.evaluation.windows import Windows, get_default_context, make_windows, select_first
from lsprism.models.load import load as load_model
from lsprism.models.load import load_tokenizer
from lsprism.models.source import resolve
from lsprism.packed.compute_dtype import apply_compute_dtype

VOCABULARY = 24  # as the tiny Llama has
SHAPE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SHAPE |= dict(num_key_value_heads=2, intermediate_size=48, initializer_range=0.5, pad_token_id=0)


@pytest.fixture
def llama(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCABULARY, (5, 40), generator=torch.Generator().manual_seed(3))


def whole(tokens: torch.Tensor) -> Windows:
    return Windows(tokens, of=len(tokens), text="random words", bos=False)


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
    found = compute_perplexity(llama, whole(tokens), batch)
    assert found.value == pytest.approx(plain_loop(llama, tokens), rel=1e-4)
    assert found.value == pytest.approx(math.exp(found.nll), rel=1e-12)
    assert (found.tokens, found.windows, found.of, found.context) == (5 * 39, 5, 5, 40)
    assert (found.dtype, found.device, found.is_subset) == ("float32", "cpu", False)


@pytest.mark.parametrize("build", [capped, scaled, multiplied, gpt2, mixture])
def test_equals_a_plain_loop_whatever_follows_the_head(build, tokens):
    model = build()
    assert compute_perplexity(model, whole(tokens), 2).value == pytest.approx(plain_loop(model, tokens), rel=1e-4)


@pytest.mark.parametrize(
    ("build", "plain"), [(capped, False), (scaled, False), (multiplied, False), (gpt2, True), (mixture, True)]
)
def test_operations_after_the_head_are_detected(build, plain, tokens):
    model = build()
    assert likelihood.has_plain_head(model, tokens) is plain
    assert not model.base_model._forward_hooks and not model.get_output_embeddings()._forward_hooks


def test_uniform_logits_give_the_size_of_the_vocabulary(llama, tokens):
    llama.lm_head.weight.data.zero_()
    assert compute_perplexity(llama, whole(tokens)).value == pytest.approx(VOCABULARY, rel=1e-6)


def test_certainty_gives_one(llama, tokens):
    constant = torch.full_like(tokens, 7)
    llama.lm_head.weight.data.zero_()
    llama.lm_head.bias = torch.nn.Parameter(torch.eye(VOCABULARY)[7] * 100)
    assert compute_perplexity(llama, whole(constant)).value == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("build", [None, capped])
def test_the_chunk_size_has_no_effect(llama, tokens, build, monkeypatch):
    model = build() if build else llama
    at_once = compute_perplexity(model, whole(tokens), 2).nll
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 4 * VOCABULARY * 7)
    assert compute_perplexity(model, whole(tokens), 2).nll == pytest.approx(at_once, rel=1e-6)


def test_head_never_sees_more_positions_than_a_chunk_holds(llama, tokens, monkeypatch):
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 4 * VOCABULARY * 16)
    seen = []
    with llama.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel())):
        compute_perplexity(llama, whole(tokens), batch=5)
    assert max(seen) <= 16 * VOCABULARY
    assert sum(seen) == (5 * 39 + likelihood.PROBE_TOKENS) * VOCABULARY


def test_windows_come_one_by_one_in_order(llama, tokens):
    sums = list(iter_window_nll(llama, tokens, batch=2))
    alone = [next(iter_window_nll(llama, window[None])) for window in tokens]
    assert sums == pytest.approx(alone, rel=1e-5)
    assert math.fsum(sums) / (5 * 39) == compute_perplexity(llama, whole(tokens), 2).nll


def test_no_global_state_is_changed_between_windows(llama, tokens):
    walk = iter_window_nll(llama, tokens)
    next(walk)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    walk.close()


def test_low_precision_is_close_to_float32(llama, tokens):
    exact = compute_perplexity(llama, whole(tokens)).value
    rounded = compute_perplexity(llama.to(torch.bfloat16), whole(tokens))
    assert rounded.dtype == "bfloat16"
    assert rounded.value == pytest.approx(exact, rel=0.05)


def test_nan_logits_stop_at_their_window(llama, tokens):
    tokens[tokens == 9] = 10
    tokens[3, 20] = 9
    llama.model.embed_tokens.weight.data[9] = float("nan")
    walk = iter_window_nll(llama, tokens)
    assert all(math.isfinite(next(walk)) for _ in range(3))
    with pytest.raises(NumericError, match="window 4 of 5"):
        next(walk)
    with pytest.raises(NumericError):
        compute_perplexity(llama, whole(tokens), batch=5)


def test_overflow_of_float64_is_infinity():
    assert safe_exp(1e6) == math.inf
    assert safe_exp(2.0) == pytest.approx(math.exp(2), rel=1e-15)


def test_progress_covers_all_windows_and_the_metric_is_returned(llama, tokens):
    steps, seen = stream_perplexity(llama, whole(tokens)), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            figure = end.value
            break
    assert [p.fraction for p in seen] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert seen[0].eta_s is None and seen[1].eta_s > 0 and seen[-1].eta_s == 0
    assert figure == compute_perplexity(llama, whole(tokens))


def test_windows_are_consecutive_and_the_rest_is_dropped(tiny_folder, text_file):
    tokenizer, corpus = load_tokenizer(resolve(str(tiny_folder))), read_text(str(text_file))
    windows = make_windows(tokenizer, corpus, 100)
    assert (windows.tokens.shape, windows.of, windows.text, windows.bos) == ((40, 100), 40, "words.txt", False)
    assert windows.tokens.flatten().tolist() == tokenizer(corpus.text)["input_ids"][:4000]
    assert make_windows(tokenizer, Corpus("with BOS", "<s> " + corpus.text), 100).bos


def test_the_first_windows_are_labeled_as_a_subset(llama, tiny_folder, text_file):
    windows = make_windows(load_tokenizer(resolve(str(tiny_folder))), read_text(str(text_file)), 100)
    few = select_first(windows, 3)
    figure = compute_perplexity(llama, few)
    assert (figure.windows, figure.of, figure.is_subset) == (3, 40, True)
    assert torch.equal(few.tokens, windows.tokens[:3])
    assert "3 of 40 non-overlapping windows (a subset) of 100 tokens" in figure.format_protocol()
    assert "subset" not in compute_perplexity(llama, select_first(windows, 1000)).format_protocol()


def test_impossible_settings_are_errors(llama, tokens, tiny_folder, text_file):
    tokenizer, corpus = load_tokenizer(resolve(str(tiny_folder))), read_text(str(text_file))
    assert get_default_context(llama) == 256
    with pytest.raises(SpecError, match="257: the model supports only 256"):
        compute_perplexity(llama, make_windows(tokenizer, corpus, 257))
    with pytest.raises(SpecError, match="--context 1 "):
        make_windows(tokenizer, corpus, 1)
    with pytest.raises(CorpusError, match="4000 tokens"):
        make_windows(tokenizer, corpus, 4001)
    with pytest.raises(SpecError, match="--windows 0"):
        select_first(whole(tokens), 0)


@pytest.mark.slow
def test_the_demo_agrees_with_a_plain_loop_over_its_own_loss():
    loaded, corpus = load_model(resolve("demo")), read_text("embedded", split="test")
    figure = compute_perplexity(loaded.model, select_first(make_windows(loaded.tokenizer, corpus, 512), 4))
    ids, losses = loaded.tokenizer(corpus.text, return_tensors="pt").input_ids, []
    with torch.no_grad(), apply_compute_dtype(loaded.model):
        for begin in range(0, 2048, 512):
            window = ids[:, begin : begin + 512]
            losses.append(loaded.model(window, labels=window).loss.item())
    assert figure.value == pytest.approx(math.exp(sum(losses) / 4), rel=0.005)
    assert figure.text == "embedded evaluation text"
    assert 2 < figure.value < 100
