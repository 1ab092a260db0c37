"""Word perplexity: every token is scored once, with the same context as in lm-eval."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from lsprism.errors import CorpusError, SpecError
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.word_perplexity import (
    Documents,
    count_words,
    find_prefix_token,
    iter_rolling_windows,
    iter_started_windows,
    stream_word_perplexity,
)
from lsprism.models.load import load
from lsprism.models.source import resolve


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load(resolve(str(tiny_folder)), dtype="float32")


def test_the_last_window_overlaps():
    """The example of lm-eval's documentation: ten tokens, context of four; each token is predicted once."""
    assert list(iter_rolling_windows(range(10), -1, 4)) == [
        ([-1, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]


@given(length=st.integers(0, 60), context=st.integers(1, 20))
def test_every_token_is_predicted_once_from_those_before_it(length, context):
    windows = list(iter_rolling_windows(range(length), -1, context))
    assert [token for _, predicted in windows for token in predicted] == list(range(length))
    for read, predicted in windows:
        assert len(read) <= context and (len(read) == context or len(windows) == 1)
        assert [token + 1 for token in read[-len(predicted) :]] == predicted
        assert read == list(range(read[0], read[0] + len(read)))


@given(length=st.integers(0, 60), context=st.integers(3, 20), start=st.sampled_from([[-1], [-2, -1]]))
def test_every_window_may_start_with_the_same_tokens(length, context, start):
    windows = list(iter_started_windows(range(length), start, context))
    assert [token for _, predicted in windows for token in predicted] == list(range(length))
    for read, predicted in windows:
        assert read[: len(start)] == start and (len(read) == context or len(windows) == 1)
        known = [*start, *range(read[len(start)] if len(read) > len(start) else 0, predicted[-1])]
        assert read == known and len(read) <= context
        assert len(predicted) <= len(read)


@torch.no_grad()
def by_hand(tiny, texts, context: int) -> float:
    """-log p of all texts in nats, with one full forward pass per token over the preceding tokens of its window."""
    total = 0.0
    for text in texts:
        ids = [tiny.tokenizer.bos_token_id, *tiny.tokenizer(text, add_special_tokens=False)["input_ids"]]
        for n in range(1, len(ids)):
            end = min(-(-n // context) * context, len(ids) - 1)  # end of the window that predicts token n
            read = torch.tensor([ids[max(0, end - context) : n]], device=tiny.device)
            total -= tiny.model(read).logits[0, -1].log_softmax(-1)[ids[n]].item()
    return total


@pytest.mark.parametrize("context", [5, 8, 200])
def test_equals_one_pass_per_token(tiny, context):
    texts = ["the old stone walks over a red river .", "  blue\nbird sings", "a"]
    figure = run_to_end(stream_word_perplexity(tiny, Documents(texts, "three lines", of=4), context))
    assert (figure.words, figure.tokens, figure.documents, figure.prefix) == (9 + 4 + 1, 13, 3, "BOS")
    assert figure.value == pytest.approx(math.exp(by_hand(tiny, texts, context) / 14), rel=1e-4)
    assert figure.value == pytest.approx(math.exp(figure.nll), rel=1e-12)
    assert figure.is_subset and figure.text == "three lines" and figure.context == context


def test_bos_of_the_tokenizer_is_not_doubled(tiny, tiny_folder):
    begun = load(resolve(str(tiny_folder)), dtype="float32")
    begun.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begun.tokenizer.bos_token_id)]
    )
    assert begun.tokenizer("a river")["input_ids"][0] == begun.tokenizer.bos_token_id
    documents = Documents(["a river walks"], "one", of=1)
    assert run_to_end(stream_word_perplexity(begun, documents, 8, "first")) == run_to_end(
        stream_word_perplexity(tiny, documents, 8)
    )
    assert (
        run_to_end(stream_word_perplexity(begun, documents, 8)).value
        == run_to_end(stream_word_perplexity(tiny, documents, 8)).value
    )


def test_words_are_counted_as_lm_eval_does():
    assert [count_words(text) for text in ("", "one", "one two", " one\n\n two ")] == [1, 1, 2, 4]


def test_a_document_without_tokens_counts_one_word(tiny):
    alone = run_to_end(stream_word_perplexity(tiny, Documents(["a river"], "one", of=1), 8))
    both = run_to_end(stream_word_perplexity(tiny, Documents(["a river", ""], "two", of=2), 8))
    assert both.nll * both.words == pytest.approx(alone.nll * alone.words) and both.words == alone.words + 1


def test_eos_starts_a_document_without_bos(tiny):
    class Tokenizer:
        bos_token_id, eos_token_id = None, 2

    assert find_prefix_token(tiny.tokenizer) == (1, "BOS")
    assert find_prefix_token(Tokenizer) == (2, "EOS")
    Tokenizer.eos_token_id = None
    with pytest.raises(SpecError, match="neither a BOS nor an EOS"):
        find_prefix_token(Tokenizer)


def test_impossible_settings_are_errors(tiny):
    with pytest.raises(CorpusError, match="nothing has no document"):
        run_to_end(stream_word_perplexity(tiny, Documents([""], "nothing", of=1), 8))
    with pytest.raises(SpecError, match="supports only 256"):
        run_to_end(stream_word_perplexity(tiny, Documents(["a"], "one", of=1), 300))


def test_progress_counts_windows_of_all_documents(tiny):
    steps = stream_word_perplexity(tiny, Documents(["a river walks ."] * 2, "two", of=2), 3)
    assert [p.of for p in steps] == [4] * 5
