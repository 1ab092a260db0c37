"""One answer as an iterator of pieces, a token each; closing it is the stop button.

Everything happens inside `next`, on the caller's thread, and nothing is held between: two streams may take turns.
"""

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import SpecError
from lsprism.generation.clock import Clock, Timing
from lsprism.generation.decode import prefill, step
from lsprism.generation.sampler import Sampler
from lsprism.generation.text import Detokenizer
from lsprism.models.tokens import context_length, embedding_rows, require_rows
from lsprism.specs import GenerateSpec

Reason = Literal["eos", "length", "stopped"]


@dataclass(frozen=True)
class Piece:
    """What one token brought. Only the last piece has a reason."""

    token: int | None  # None: stopped before this token was computed
    text: str  # may be empty: an end token, a special token, a character still open
    timing: Timing  # so far
    reason: Reason | None = None


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    spec: GenerateSpec,
    stop: threading.Event | None = None,
) -> Generator[Piece, None, None]:
    """Answer the prompt [1, n], as `encode` makes it.

    The end is an end token (counted, not shown), `spec.max_new_tokens` or the end of the model's context (both are
    "length"), or `stop`, which is read before each token. Raises SpecError at once if the prompt fills the context or
    holds a token that the model has no embedding for.
    """
    require_rows(embedding_rows(model), input_ids, tokenizer)
    most = longest_answer(model, input_ids, spec)
    return _pieces(model, tokenizer, input_ids.to(model.device), spec.model_copy(update={"max_new_tokens": most}), stop)


def longest_answer(model: PreTrainedModel, input_ids: Tensor, spec: GenerateSpec) -> int:
    """Tokens that an answer to the prompt [1, n] may have; SpecError if the prompt fills the context."""
    prompt, context = input_ids.shape[1], context_length(model)
    if context is not None and prompt >= context:
        raise SpecError(
            f"The prompt has {prompt} tokens, and the model's context of {context} leaves no room for an answer.",
            f"Shorten it to {context - 1} tokens or fewer.",
        )
    return spec.max_new_tokens if context is None else min(spec.max_new_tokens, context - prompt)


def _pieces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    spec: GenerateSpec,
    stop: threading.Event | None,
) -> Generator[Piece, None, None]:
    sampler, text, clock = Sampler(spec), Detokenizer(tokenizer), Clock()
    ends = frozenset() if spec.ignore_eos else end_tokens(model, tokenizer)
    token, cache = None, None
    sampler.see(input_ids[0])
    for left in reversed(range(spec.max_new_tokens)):
        if stop is not None and stop.is_set():
            yield Piece(None, text.finish(), clock.timing, "stopped")
            return
        with clock.token():
            logits, cache = prefill(model, input_ids) if token is None or cache is None else step(model, token, cache)
            token = sampler.pick(logits)
        if token in ends:
            yield Piece(token, text.finish(), clock.timing, "eos")
            return
        if not left:
            yield Piece(token, text.push(token) + text.finish(), clock.timing, "length")
            return
        yield Piece(token, text.push(token), clock.timing)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer, by the model's generation config (one or several) and the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    several = named if isinstance(named, list) else [named]
    return frozenset(n for n in [*several, tokenizer.eos_token_id] if n is not None)
