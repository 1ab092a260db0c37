"""Word perplexity as in lm-eval's `wikitext` task: independent of how a tokenizer splits words.

Every document is scored separately, each of its tokens once, in windows of the full context (`loglikelihood_rolling`);
the sum is divided by the number of whitespace-separated words. lm-eval reads BOS twice if a tokenizer adds one itself,
unless it is called with add_bos_token=False; here it is read once. By default, every window starts with BOS if the
tokenizer adds one to a text; `bos="first"` is lm-eval's behavior, with BOS only before the document.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.calibration.corpus import Corpus
from lsprism.errors import CorpusError, SpecError
from lsprism.evaluation.likelihood import check_finite, compute_nll, has_plain_head, safe_exp
from lsprism.evaluation.progress import Steps, track_items
from lsprism.evaluation.windows import check_context
from lsprism.models.load import LoadedModel
from lsprism.models.tokens import check_rows, count_embedding_rows, encode_plain, find_start_tokens
from lsprism.packed.compute_dtype import format_compute_dtype
from lsprism.records.metrics import WordPerplexityResult
from lsprism.specs import BosName

ARTICLE = re.compile(r"^ = [^=\n]+ = *$", re.MULTILINE)
Window = tuple[list[int], list[int]]  # input tokens, and the tokens to predict at their end


@dataclass(frozen=True)
class Documents:
    """Independent texts."""

    texts: Sequence[str]
    name: str
    of: int  # total number of documents


def stream_word_perplexity(
    loaded: LoadedModel, documents: Documents, context: int, bos: BosName = "each"
) -> Steps[WordPerplexityResult]:
    """Yield progress per window, then return the metric. SpecError if the model's context is too short or there is
    neither a BOS nor an EOS token, CorpusError without documents, NumericError for NaN likelihoods."""
    check_context(loaded.model, context)
    start = find_start_tokens(loaded.tokenizer) if bos == "each" else []
    if start and context <= len(start):
        raise SpecError(f"--context {context} leaves no token of the text.", f"Choose {len(start) + 1} or more.")
    prefix, name = (start[0], "BOS") if start else find_prefix_token(loaded.tokenizer)
    encoded = [encode_plain(loaded.tokenizer, text) for text in documents.texts]
    for tokens in encoded:
        check_rows(count_embedding_rows(loaded.model), tokens, loaded.tokenizer)
    cut = partial(iter_started_windows, start=start) if start else partial(iter_rolling_windows, prefix=prefix)
    windows = [window for tokens in encoded for window in cut(tokens, context=context)]
    if not windows:
        raise CorpusError(f"{documents.name} has no document with at least one word.", "Choose another text.")
    sums = yield from track_items("word perplexity", _iter_window_nll(loaded.model, windows), len(windows))
    words = sum(map(count_words, documents.texts))
    return WordPerplexityResult(
        value=safe_exp(math.fsum(sums) / words),
        nll=math.fsum(sums) / words,
        words=words,
        tokens=sum(map(len, encoded)),
        documents=len(documents.texts),
        of=documents.of,
        context=context,
        prefix=name,
        begins="each" if start else "first",
        text=documents.name,
        dtype=str(loaded.dtype).removeprefix("torch."),
        compute_dtype=format_compute_dtype(loaded.model),
        device=str(loaded.device),
    )


def split_documents(corpus: Corpus, most: int | None = None) -> Documents:
    """The articles of WikiText, which start with ` = Title = `; any other text is one document. `most`: maximum."""
    heads = [found.start() for found in ARTICLE.finditer(corpus.text)]
    ends = [*heads[1:], len(corpus.text)]
    texts = [corpus.text[start:end] for start, end in zip(heads, ends, strict=False)] or [corpus.text]
    return Documents(texts[:most], corpus.name, len(texts))


def iter_rolling_windows(tokens: Sequence[int], prefix: int, context: int) -> Iterator[Window]:
    """Windows that predict every token once, with as much context as fits: the first starts with `prefix`, the last
    overlaps the one before it so that it is full."""
    sequence = [prefix, *tokens]
    for start in range(0, len(tokens), context):
        end = min(start + context, len(tokens))
        yield sequence[max(0, end - context) : end], sequence[start + 1 : end + 1]


def iter_started_windows(tokens: Sequence[int], start: Sequence[int], context: int) -> Iterator[Window]:
    """As `iter_rolling_windows`, but every window starts with `start`, which leaves less room for the text."""
    size, done = context - len(start), 0
    while done < len(tokens):
        end = min(done + size + (done == 0), len(tokens))
        yield [*start, *tokens[max(0, end - 1 - size) : end - 1]], list(tokens[done:end])
        done = end


def count_words(text: str) -> int:
    """Number of whitespace-separated words; an empty text has one, as in lm-eval."""
    return len(re.split(r"\s+", text))


def find_prefix_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int, str]:
    """The token before a document, and its name: BOS, or EOS if there is none. SpecError if there is neither."""
    for token, name in ((tokenizer.bos_token_id, "BOS"), (tokenizer.eos_token_id, "EOS")):
        if token is not None:
            return token, name
    raise SpecError(
        "This model's tokenizer has neither a BOS nor an EOS token to start a document with.",
        "Use the metric perplexity instead of word-perplexity.",
    )


def _iter_window_nll(model: PreTrainedModel, windows: list[Window]) -> Iterator[float]:
    """Yield the sum of -log p in nats over each window."""
    plain = has_plain_head(model, torch.tensor([windows[0][0]]))
    for number, (read, predicted) in enumerate(windows, start=1):
        (value,) = compute_nll(model, torch.tensor([read]), torch.tensor([predicted]), plain)
        check_finite(value, number, len(windows))
        yield value
