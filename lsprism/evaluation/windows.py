"""The text that a model is measured on, as tokens: consecutive windows, all that there are or the first few."""

from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.calibration.corpus import Corpus, consecutive, tokens_to_cut
from lsprism.errors import SpecError
from lsprism.models.tokens import context_length, opening
from lsprism.specs import BosName

USUAL_CONTEXT = 2048
QUICK_WINDOWS = 4


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows [n, context] int64 of one text."""

    tokens: Tensor
    of: int  # windows there are in the text
    text: str  # its name
    bos: bool  # the text begins with the tokenizer's beginning-of-text token
    start: int = 0  # tokens at the beginning of each window that are not the text's; 0: windows are cut from the text

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    @property
    def given(self) -> int:
        """Tokens at the beginning of each window that are not predicted."""
        return max(1, self.start)

    @property
    def predicted(self) -> int:
        """Tokens of the text that have one before them in their window."""
        return len(self.tokens) * (self.context - self.given)


def windows_of(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, context: int, bos: BosName = "each") -> Windows:
    """All windows of a text, tokenized once; CorpusError if it is too short.

    `bos`: where the tokens stand that the tokenizer puts before a text: before each window, or before the first alone.
    """
    tokens, start = tokens_to_cut(tokenizer, corpus.text, bos)
    if context <= max(1, len(start)):
        least = max(1, len(start)) + 1
        raise SpecError(f"--context {context} leaves no token to predict.", f"Choose {least} or more; 2048 is usual.")
    there = consecutive(tokens, context, start)
    begun = bool(opening(tokenizer)) or bool(there[0, 0] == tokenizer.bos_token_id)
    return Windows(there, len(there), corpus.name, bos=begun, start=len(start))


def first(windows: Windows, count: int = QUICK_WINDOWS) -> Windows:
    """The first `count` windows, or all if there are fewer; figures made from them call themselves a subset."""
    if count < 1:
        raise SpecError(f"--windows {count} leaves nothing to measure.", "Choose 1 or more.")
    return replace(windows, tokens=windows.tokens[:count])


def usual_context(model: PreTrainedModel) -> int:
    """2048 tokens where the model allows it."""
    return min(USUAL_CONTEXT, context_length(model) or USUAL_CONTEXT)


def require_context(model: PreTrainedModel, context: int) -> None:
    """SpecError if the model has no positions for so many tokens."""
    limit = context_length(model)
    if limit is not None and context > limit:
        raise SpecError(
            f"--context {context}: the model has positions for {limit} tokens only.", f"Choose {limit} or fewer."
        )
