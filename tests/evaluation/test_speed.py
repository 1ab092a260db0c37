"""Speed: interleaved models, warm-up excluded, a fixed number of tokens whatever the model generates."""

import pytest
import torch

from lsprism.calibration.corpus import read_text, tokenize
from lsprism.errors import CorpusError, NumericError, SpecError, WorkError
from lsprism.evaluation import speed as room
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.speed import SpeedSettings, measure_answer, stream_dtype_speeds, stream_speed
from lsprism.generation.timing import DecodeTiming
from lsprism.models.load import load, select_device
from lsprism.models.source import resolve
from lsprism.records.metrics import SpeedComparison

QUICK = SpeedSettings(prompt_lengths=(4, 9), new_tokens=5, repetitions=3)


@pytest.fixture(scope="module")
def pair(tiny_folder):
    return [load(resolve(str(tiny_folder)), dtype=dtype) for dtype in ("float32", "bfloat16")]


@pytest.fixture(scope="module")
def tokens(pair, text_file):
    return tokenize(pair[0].tokenizer, read_text(str(text_file)).text)


@pytest.fixture
def asked(monkeypatch):
    """Records the calls of `measure_answer`; its time is the number of the call."""
    calls = []

    def scripted(loaded, prompt, new_tokens):
        calls.append((str(loaded.dtype).removeprefix("torch."), prompt[0].tolist(), new_tokens))
        return DecodeTiming(tokens=new_tokens, first_token_s=float(len(calls)), decode_s=2.0 ** len(calls))

    monkeypatch.setattr(room, "measure_answer", scripted)
    return calls


def test_models_are_interleaved_after_a_warm_up(pair, tokens, asked):
    run_to_end(stream_speed(pair, tokens, QUICK))
    for length in QUICK.prompt_lengths:
        rows = [(dtype, new) for dtype, prompt, new in asked if len(prompt) == length]
        assert rows[:2] == [("float32", 4), ("bfloat16", 4)]
        assert rows[2:] == [("float32", 5), ("bfloat16", 5)] * 3
    assert {tuple(prompt) for _, prompt, _ in asked} == {tuple(tokens[:n].tolist()) for n in (4, 9)}


def test_metrics_have_only_their_own_repetitions(pair, tokens, asked):
    (dense, other), (longer, _) = run_to_end(stream_speed(pair, tokens, QUICK))
    assert dense.first_token_runs_s == [3, 5, 7] and other.first_token_runs_s == [4, 6, 8]  # 1 and 2 warmed up
    assert dense.tokens_per_s_runs == [4 / 2**n for n in (3, 5, 7)]
    assert SpeedComparison(baseline=dense, compressed=other).ratios == [0.5, 0.5, 0.5]
    assert (dense.prompt_tokens, longer.prompt_tokens, dense.new_tokens) == (4, 9, 5)
    assert (dense.dtype, other.dtype, dense.device, dense.threads) == (
        "float32", "bfloat16", str(pair[0].device), torch.get_num_threads(),
    )  # fmt: skip


def test_progress_counts_every_output(pair, tokens, asked):
    fractions = [p.fraction for p in stream_speed(pair, tokens, QUICK)]
    assert fractions == pytest.approx([n / 12 for n in range(13)])


def test_a_real_measurement_has_a_positive_speed_for_every_repetition(pair, tokens):
    for figures in run_to_end(stream_speed(pair, tokens, QUICK)):
        for figure in figures:
            assert len(figure.tokens_per_s_runs) == len(figure.first_token_runs_s) == 3
            assert min(*figure.tokens_per_s_runs, *figure.first_token_runs_s) > 0


def test_eos_is_ignored(pair, tokens, monkeypatch):
    """A model that generates only EOS still produces the requested number of tokens."""
    with torch.no_grad():
        bias = torch.eye(24, device=pair[0].device)[pair[0].tokenizer.eos_token_id] * 1e4
    monkeypatch.setattr(pair[0].model.lm_head, "bias", torch.nn.Parameter(bias, requires_grad=False))
    timing = measure_answer(pair[0], tokens[None, :4], 7)
    assert timing.tokens == 7 and timing.decode_s > 0


def test_prompts_are_limited_by_the_context(pair, tokens):
    settings = SpeedSettings(prompt_lengths=(32, 246, 247), new_tokens=10)  # the context is 256
    assert settings.fit_to_models(pair).prompt_lengths == (32, 246)
    with pytest.raises(SpecError, match="prompt of 247 tokens and 10 new tokens"):
        run_to_end(stream_speed(pair, tokens, settings))


@pytest.mark.parametrize(
    "settings", [SpeedSettings((4,), 1), SpeedSettings((4,), 5, 0), SpeedSettings(()), SpeedSettings((0, 4))]
)
def test_impossible_settings_are_errors(pair, tokens, settings):
    with pytest.raises(SpecError, match="cannot be measured"):
        run_to_end(stream_speed(pair, tokens, settings))


def test_a_text_shorter_than_the_prompt_is_an_error(pair, tokens):
    with pytest.raises(CorpusError, match="3 tokens, too few for a prompt of 9"):
        run_to_end(stream_speed(pair, tokens[:3], QUICK))


def test_the_fastest_dtype_is_found(tiny_folder, tokens, monkeypatch):
    speeds = {"bfloat16": 8.0, "float16": 2.0, "float32": 4.0}

    def scripted(loaded, prompt, new_tokens):
        return DecodeTiming(new_tokens, 1.0, (new_tokens - 1) / speeds[str(loaded.dtype).removeprefix("torch.")])

    monkeypatch.setattr(room, "measure_answer", scripted)
    figure = run_to_end(stream_dtype_speeds(resolve(str(tiny_folder)), "auto", tokens))
    assert figure.device == str(select_device("auto"))
    assert figure.tokens_per_s == pytest.approx(speeds) and figure.fastest == "bfloat16"


def test_a_dtype_in_which_the_model_does_not_run_is_left_out(tiny_folder, tokens, monkeypatch):
    def scripted(loaded, prompt, new_tokens):
        if loaded.dtype == torch.float16:
            raise RuntimeError('"addmm" not implemented for Half')
        if loaded.dtype == torch.bfloat16:
            raise NumericError("The model's largest logit is nan.")
        return DecodeTiming(new_tokens, 1.0, 1.0)

    monkeypatch.setattr(room, "measure_answer", scripted)
    figure = run_to_end(stream_dtype_speeds(resolve(str(tiny_folder)), "cpu", tokens))
    assert figure.fastest == "float32" and list(figure.tokens_per_s) == ["float32"]
    assert "Half" in figure.left_out["float16"] and "nan" in figure.left_out["bfloat16"]


def test_a_model_that_runs_in_no_dtype_is_an_error(tiny_folder, tokens, monkeypatch):
    def scripted(loaded, prompt, new_tokens):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(room, "measure_answer", scripted)
    with pytest.raises(WorkError, match="in any of .* no kernel"):
        run_to_end(stream_dtype_speeds(resolve(str(tiny_folder)), "cpu", tokens))


def test_all_dtypes_run_on_a_cpu(tiny_folder, tokens):
    figure = run_to_end(stream_dtype_speeds(resolve(str(tiny_folder)), "cpu", tokens, SpeedSettings((4,), 3, 1)))
    assert set(figure.tokens_per_s) | set(figure.left_out) == {"bfloat16", "float16", "float32"}
    assert {"bfloat16", "float32"} <= set(figure.tokens_per_s)
