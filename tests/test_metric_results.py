"""Metrics state their measurement protocol and survive JSON."""

import math

import pytest
from pydantic import ValidationError

from lsprism.records.metrics import (
    AgreementResult,
    DtypeSpeeds,
    PerplexityResult,
    SizeResult,
    SpeedComparison,
    SpeedResult,
    WordPerplexityResult,
)

SHARED = dict(context=2048, text="WikiText-2 raw (test)", dtype="bfloat16", device="cuda:0")
WORDS = WordPerplexityResult(
    value=20.0, nll=math.log(20), words=1000, tokens=1400, documents=2, of=62, prefix="EOS", **SHARED
)
PERPLEXITY = PerplexityResult(value=12.5, nll=math.log(12.5), tokens=8188, windows=4, of=140, bos=True, **SHARED)
AGREEMENT = AgreementResult(
    kl=0.1, top1=0.9, tokens=8188, windows=140, of=140, bos=False, baseline_dtype="float32", **SHARED
)


def speed(model: str, per_s: list[float], first_s: list[float], dtype: str = "bfloat16") -> SpeedResult:
    return SpeedResult(
        model=model,
        prompt_tokens=256,
        new_tokens=64,
        first_token_runs_s=first_s,
        tokens_per_s_runs=per_s,
        dtype=dtype,
        device="cpu",
        threads=2,
    )


BASELINE = speed("base", [10.0, 20.0, 40.0], [0.2, 0.4, 0.3], dtype="float32")
SMALLER = speed("small", [15.0, 20.0, 80.0], [0.1, 0.1, 0.1])
COMPARISON = SpeedComparison(baseline=BASELINE, compressed=SMALLER)
DTYPES = DtypeSpeeds(
    tokens_per_s={"bfloat16": 9.0, "float32": 11.0},
    left_out={"float16": "no kernel"},
    prompt_tokens=32,
    new_tokens=16,
    repetitions=3,
    device="cpu",
    threads=1,
)
SIZES = SizeResult(kept_parameters=60, model_parameters=80, stored_bytes=140, resident_bytes=130, dtype="bfloat16")
ALL = [WORDS, PERPLEXITY, AGREEMENT, BASELINE, COMPARISON, DTYPES, SIZES]


@pytest.mark.parametrize("figure", ALL, ids=lambda figure: type(figure).__name__)
def test_a_metric_survives_json_and_is_immutable(figure):
    assert type(figure).model_validate_json(figure.model_dump_json()) == figure
    with pytest.raises(ValidationError):
        figure.dtype = "int8"


@pytest.mark.parametrize("figure", ALL, ids=lambda figure: type(figure).__name__)
def test_a_protocol_is_one_sentence(figure):
    assert figure.format_protocol().endswith(".") and "\n" not in figure.format_protocol()


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (
            WORDS,
            [
                "1,000 whitespace-separated words",
                "2 of 62 documents (a subset)",
                "EOS before the first",
                "2,048",
                "WikiText-2 raw (test)",
                "cuda:0",
            ],
        ),
        (PERPLEXITY, ["8,188 predicted", "4 of 140", "(a subset)", "2,048", "with BOS", "bfloat16 on cuda:0"]),
        (AGREEMENT, ["all 140", "without BOS", "nats per token", "baseline in float32", "model in bfloat16"]),
        (BASELINE, ["batch 1, greedy", "256", "64", "EOS ignored", "3 repetitions", "cpu, 2 threads"]),
        (COMPARISON, ["3 pairs", "A B A B", "fastest dtype", "dtype of its checkpoint", "cpu, 2 threads"]),
        (DTYPES, ["fastest dense dtype is float32", "bfloat16 9.0 tok/s", "float16 does not run", "1 thread"]),
        (SIZES, ["embeddings included", "tied weights counted once", "bfloat16"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_protocol_states_the_settings(figure, said):
    assert [words for words in said if words not in figure.format_protocol()] == []


def test_speed_is_the_median_of_its_repetitions():
    assert (BASELINE.tokens_per_s, BASELINE.first_token_s) == (20.0, 0.3)


def test_a_ratio_is_the_median_of_the_pairs_with_its_range():
    assert COMPARISON.ratios == [1.5, 1.0, 2.0]
    assert (COMPARISON.ratio, COMPARISON.lowest, COMPARISON.highest) == (1.5, 1.0, 2.0)
    assert COMPARISON.first_token_ratio == pytest.approx(3.0)
    assert COMPARISON.model_dump()["ratio"] == 1.5  # derived values are in the JSON too
    alone = COMPARISON.model_copy(update={"in_turn": False})
    assert "loaded one at a time" in alone.format_protocol() and "A B A B" not in alone.format_protocol()


def test_all_speed_ratios_share_one_protocol():
    shipped = SpeedComparison(baseline=speed("base", [5.0, 6.0, 7.0], [0.2, 0.4, 0.3]), compressed=SMALLER)
    assert shipped.baseline.dtype != BASELINE.dtype and shipped.format_protocol() == COMPARISON.format_protocol()


def test_memory_is_mentioned_only_if_it_was_measured():
    assert "memory" not in BASELINE.format_protocol()
    assert "minus import overhead" in BASELINE.model_copy(update={"peak_memory_bytes": 5}).format_protocol()


def test_only_a_part_is_labeled_as_a_subset():
    assert PERPLEXITY.is_subset and WORDS.is_subset and not AGREEMENT.is_subset
    assert "subset" not in PERPLEXITY.model_copy(update={"windows": 140}).format_protocol()


def test_infinity_survives_json():
    endless = PERPLEXITY.model_copy(update={"value": math.inf})
    assert PerplexityResult.model_validate_json(endless.model_dump_json()).value == math.inf
