"""Agreement with the baseline equals torch's KL divergence over the same positions, in bounded memory."""

import dataclasses

import pytest
import torch
from conftest import make_model, make_tokenizer
from torch.nn import functional as F

from lsprism.calibration.corpus import read_text
from lsprism.errors import NumericError, SpecError
from lsprism.evaluation import likelihood
from lsprism.evaluation.agreement import check_same_tokens, stream_agreement
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.windows import make_windows, select_first
from lsprism.models.load import load
from lsprism.models.source import resolve


@pytest.fixture(scope="module")
def baseline(tiny_folder):
    return load(resolve(str(tiny_folder)), dtype="float32")


@pytest.fixture
def altered(tiny_folder):
    """The same model with noise on its weights."""
    loaded = load(resolve(str(tiny_folder)), dtype="float32")
    torch.manual_seed(5)
    for parameter in loaded.model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return loaded


@pytest.fixture(scope="module")
def windows(baseline, text_file):
    return select_first(make_windows(baseline.tokenizer, read_text(str(text_file)), 50), 6)


@torch.no_grad()
def by_torch(baseline, loaded, tokens) -> tuple[float, float]:
    """KL(baseline || model) per token and top-1 agreement, from complete logits."""
    p, q = (
        side.model(tokens.to(side.device)).logits[:, :-1].float().log_softmax(-1).flatten(0, 1)
        for side in (baseline, loaded)
    )
    equal = (p.argmax(-1) == q.argmax(-1)).float().mean().item()
    return F.kl_div(q, p, reduction="batchmean", log_target=True).item(), equal


def test_values_equal_those_of_torch(baseline, altered, windows):
    figure = run_to_end(stream_agreement(baseline, altered, windows))
    kl, equal = by_torch(baseline, altered, windows.tokens)
    assert figure.kl == pytest.approx(kl, rel=1e-4) and kl > 1e-3
    assert figure.top1 == pytest.approx(equal) and 0 < equal < 1
    assert (figure.tokens, figure.windows, figure.of, figure.context) == (6 * 49, 6, 80, 50)
    assert figure.is_subset and figure.text == "words.txt"


def test_the_direction_matters(baseline, altered, windows):
    there, back = (
        run_to_end(stream_agreement(a, b, windows)).kl for a, b in ((baseline, altered), (altered, baseline))
    )
    assert there != pytest.approx(back, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_agrees_with_itself(tiny_folder, windows, dtype):
    one, other = (load(resolve(str(tiny_folder)), dtype=dtype) for _ in range(2))
    figure = run_to_end(stream_agreement(one, other, windows))
    assert 0 <= figure.kl < 1e-6 and figure.top1 == 1


def test_a_rounded_model_is_close_but_never_below_zero(tiny_folder, baseline, windows):
    figure = run_to_end(stream_agreement(baseline, load(resolve(str(tiny_folder)), dtype="bfloat16"), windows))
    assert 0 <= figure.kl < 0.01 and figure.top1 > 0.9
    assert (figure.baseline_dtype, figure.dtype) == ("float32", "bfloat16")


def test_the_chunk_size_bounds_memory_and_has_no_other_effect(baseline, altered, windows, monkeypatch):
    at_once = run_to_end(stream_agreement(baseline, altered, windows))
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 4 * 24 * 16)
    seen = []
    heads = [side.model.get_output_embeddings() for side in (baseline, altered)]
    handles = [head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape)) for head in heads]
    in_chunks = run_to_end(stream_agreement(baseline, altered, windows))
    for handle in handles:
        handle.remove()
    assert max(shape[-2] for shape in seen) <= 16
    assert in_chunks.kl == pytest.approx(at_once.kl, rel=1e-5) and in_chunks.top1 == at_once.top1


def test_another_tokenizer_is_an_error(baseline, tmp_path, windows):
    folder = make_model(tmp_path / "other")
    check_same_tokens(baseline.source, resolve(str(folder)))
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["moon"])
    tokenizer.save_pretrained(folder)
    other = load(resolve(str(folder)), dtype="float32")
    with pytest.raises(SpecError, match="different tokenizers: 'moon' is token 24 in one and None in the other"):
        run_to_end(stream_agreement(baseline, other, windows))


def test_another_vocabulary_size_is_an_error(baseline, tmp_path, windows):
    folder = make_model(tmp_path / "other")
    model = load(resolve(str(folder)), dtype="float32").model
    model.resize_token_embeddings(30)
    model.save_pretrained(folder)
    other = load(resolve(str(folder)), dtype="float32")
    with pytest.raises(SpecError, match="30 and 24 tokens"):
        run_to_end(stream_agreement(baseline, other, windows))


def test_a_context_beyond_the_models_is_an_error(baseline, text_file):
    with pytest.raises(SpecError, match="supports only 256"):
        run_to_end(
            stream_agreement(baseline, baseline, make_windows(baseline.tokenizer, read_text(str(text_file)), 300))
        )


def test_nan_logits_stop_at_their_window(baseline, altered, windows):
    altered.model.model.embed_tokens.weight.data[9] = float("nan")
    tokens = windows.tokens.clone()
    tokens[tokens == 9] = 10
    tokens[2, 20] = 9
    with pytest.raises(NumericError, match="window 3 of 6"):
        run_to_end(stream_agreement(baseline, altered, dataclasses.replace(windows, tokens=tokens)))


def test_no_global_state_is_changed_between_windows(baseline, windows):
    steps = stream_agreement(baseline, baseline, windows)
    assert next(steps).fraction == 0 and next(steps).fraction == pytest.approx(1 / 6)
    assert torch.is_grad_enabled()
    steps.close()
