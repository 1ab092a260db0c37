"""The text that a model is measured on, as tokens: consecutive windows, all that there are or the first few."""

from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.calibration.corpus import Corpus, consecutive, tokenize
from lsprism.errors import SpecError
from lsprism.generation.stream import context_length

USUAL_CONTEXT = 2048
QUICK_WINDOWS = 4


@dataclass(frozen=True)
class Windows:
    """Non-overlapping windows [n, context] int64 of one text."""

    tokens: Tensor
    of: int  # windows there are in the text
    text: str  # its name
    bos: bool  # the text begins with the tokenizer's beginning-of-text token

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    @property
    def predicted(self) -> int:
        """Tokens that have one before them in their window."""
        return len(self.tokens) * (self.context - 1)


def windows_of(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, context: int) -> Windows:
    """All windows of a text, tokenised once with the tokenizer's own special tokens; CorpusError if it is too short."""
    if context < 2:
        raise SpecError(f"--context {context} leaves no token to predict.", "Choose 2 or more; 2048 is usual.")
    tokens = tokenize(tokenizer, corpus.text)
    there = consecutive(tokens, context)
    return Windows(there, len(there), corpus.name, bos=bool(tokens[0] == tokenizer.bos_token_id))


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
