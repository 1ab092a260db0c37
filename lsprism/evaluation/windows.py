"""The evaluation text as tokens: consecutive windows, all of them or the first ones."""

from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.calibration.corpus import Corpus, prepare_tokens, split_windows
from lsprism.errors import SpecError
from lsprism.models.tokens import find_start_tokens, get_context_length
from lsprism.specs import BosName

DEFAULT_CONTEXT = 2048
QUICK_WINDOWS = 4


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows [n, context] int64 of one text."""

    tokens: Tensor
    of: int  # total number of windows in the text
    text: str  # name of the text
    bos: bool  # the text starts with the tokenizer's BOS token
    start: int = 0  # number of tokens added before the text in each window

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    @property
    def given(self) -> int:
        """Number of tokens at the beginning of each window that are not predicted."""
        return max(1, self.start)

    @property
    def predicted(self) -> int:
        """Total number of predicted tokens: those with a token before them in their window."""
        return len(self.tokens) * (self.context - self.given)


def make_windows(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, context: int, bos: BosName = "each") -> Windows:
    """All windows of a text, tokenized once. CorpusError if it is too short, SpecError if `context` is.

    `bos`: whether the tokens that the tokenizer adds before a text go before each window or only before the first.
    """
    tokens, start = prepare_tokens(tokenizer, corpus.text, bos)
    if context <= max(1, len(start)):
        least = max(1, len(start)) + 1
        raise SpecError(f"--context {context} leaves no token to predict.", f"Choose {least} or more; 2048 is usual.")
    there = split_windows(tokens, context, start)
    begun = bool(find_start_tokens(tokenizer)) or bool(there[0, 0] == tokenizer.bos_token_id)
    return Windows(there, len(there), corpus.name, bos=begun, start=len(start))


def select_first(windows: Windows, count: int = QUICK_WINDOWS) -> Windows:
    """The first `count` windows, or all if there are fewer; metrics on them are labeled as a subset."""
    if count < 1:
        raise SpecError(f"--windows {count} leaves nothing to evaluate.", "Choose 1 or more.")
    return replace(windows, tokens=windows.tokens[:count])


def get_default_context(model: PreTrainedModel) -> int:
    """2048 tokens, or the model's maximum if it is lower."""
    return min(DEFAULT_CONTEXT, get_context_length(model) or DEFAULT_CONTEXT)


def check_context(model: PreTrainedModel, context: int) -> None:
    """Raise SpecError if the model's context is too short."""
    limit = get_context_length(model)
    if limit is not None and context > limit:
        raise SpecError(
            f"--context {context}: the model supports only {limit} tokens.", f"Choose {limit} or fewer."
        )
