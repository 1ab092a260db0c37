"""One output as an iterator of pieces, one per token; closing it stops the generation.

All work happens inside `next` on the caller's thread, and no global state is held in between, so two streams can be
interleaved.
"""

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import SpecError
from lsprism.generation.decode import decode_step, prefill
from lsprism.generation.detokenizer import Detokenizer
from lsprism.generation.sampler import Sampler
from lsprism.generation.timing import Clock, DecodeTiming
from lsprism.models.tokens import check_rows, count_embedding_rows, get_context_length
from lsprism.specs import GenerateSpec

Reason = Literal["eos", "length", "stopped"]


@dataclass(frozen=True)
class Piece:
    """One token with its text. Only the last piece has a reason."""

    token: int | None  # None: stopped before this token was computed
    text: str  # empty for an end token, a special token, or an incomplete character
    timing: DecodeTiming  # up to this token
    reason: Reason | None = None


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    spec: GenerateSpec,
    stop: threading.Event | None = None,
) -> Generator[Piece, None, None]:
    """Generate text for the prompt [1, n] from `encode`.

    Stops at an end token (counted, not shown), after `spec.max_new_tokens` or at the end of the model's context (both
    have the reason "length"), or when `stop` is set, which is checked before each token. Raises SpecError immediately
    if the prompt fills the context or contains a token without an embedding.
    """
    check_rows(count_embedding_rows(model), input_ids, tokenizer)
    most = compute_max_new_tokens(model, input_ids, spec)
    return _iter_pieces(
        model, tokenizer, input_ids.to(model.device), spec.model_copy(update={"max_new_tokens": most}), stop
    )


def compute_max_new_tokens(model: PreTrainedModel, input_ids: Tensor, spec: GenerateSpec) -> int:
    """Maximum number of new tokens for the prompt [1, n]; SpecError if the prompt fills the context."""
    prompt, context = input_ids.shape[1], get_context_length(model)
    if context is not None and prompt >= context:
        raise SpecError(
            f"The prompt of {prompt} tokens fills the model's context of {context}.",
            f"Shorten it to {context - 1} tokens or fewer.",
        )
    return spec.max_new_tokens if context is None else min(spec.max_new_tokens, context - prompt)


def _iter_pieces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    spec: GenerateSpec,
    stop: threading.Event | None,
) -> Generator[Piece, None, None]:
    sampler, text, clock = Sampler(spec), Detokenizer(tokenizer), Clock()
    ends = frozenset() if spec.ignore_eos else find_end_tokens(model, tokenizer)
    token, cache = None, None
    sampler.add_seen(input_ids[0])
    for left in reversed(range(spec.max_new_tokens)):
        if stop is not None and stop.is_set():
            yield Piece(None, text.finish(), clock.timing, "stopped")
            return
        with clock.measure_token():
            logits, cache = (
                prefill(model, input_ids) if token is None or cache is None else decode_step(model, token, cache)
            )
            token = sampler.sample(logits)
        if token in ends:
            yield Piece(token, text.finish(), clock.timing, "eos")
            return
        if not left:
            yield Piece(token, text.push(token) + text.finish(), clock.timing, "length")
            return
        yield Piece(token, text.push(token), clock.timing)


def find_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The EOS tokens of the model's generation config (one or several) and of the tokenizer."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    several = named if isinstance(named, list) else [named]
    return frozenset(n for n in [*several, tokenizer.eos_token_id] if n is not None)
