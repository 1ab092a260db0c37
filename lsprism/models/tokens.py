"""How a tokenizer starts a text, and the limits of a model's input: rows of the embedding, positions."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import SourceError, SpecError

MOST_SPARE = 8  # rows that a position table may have beyond the context, for padding
PROBES = ("a", "the", "1", ".")  # texts of one or two tokens; a tokenizer may drop one of them


def find_start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that the tokenizer adds before every text: one BOS (Llama, Gemma), two tokens (GLM), or none (Qwen)."""
    found: set[tuple[int, ...]] | None = None
    for probe in PROBES:
        plain, whole = encode_plain(tokenizer, probe), encode_text(tokenizer, probe)
        ends = range(len(whole) - len(plain) + 1) if plain else ()
        before = {tuple(whole[:end]) for end in ends if whole[end : end + len(plain)] == plain}
        # A probe may equal the token before it, so all probes must agree.
        found = before if found is None else found & before or found
    shortest = min(found or {()}, key=len)
    return list(shortest)


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the text, without the special tokens that the tokenizer adds."""
    return encode_text(tokenizer, text, add_special_tokens=False)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, **settings: bool) -> list[int]:
    """Token ids of a text. Raises SourceError if the tokenizer fails."""
    try:  # not verbose: a text longer than the model's context is split into windows later
        return tokenizer(text, verbose=False, **settings)["input_ids"]
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = " ".join(str(error).split()).rstrip(".")
        raise SourceError(
            f"The tokenizer cannot encode the text: {reason or type(error).__name__}.",
            "Copy its files again from the original model.",
        ) from error


def count_embedding_rows(model: PreTrainedModel) -> int:
    """Rows of the input embedding: the model accepts ids from 0 to this number - 1."""
    return embedding_of(model).shape[0]


def embedding_of(model: PreTrainedModel) -> Tensor:
    """[tokens, width]"""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def get_context_length(model: PreTrainedModel | PreTrainedConfig) -> int | None:
    """Maximum number of tokens, prompt and output together; None if the config sets no limit."""
    whole = model if isinstance(model, PreTrainedConfig) else model.config
    config = whole.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)  # the latter: MPT


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether positions are looked up in a table as long as the context, so that longer inputs are impossible."""
    limit, words = get_context_length(model), model.get_input_embeddings()
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]
    tables += [buffer for buffer in model.buffers() if buffer.ndim > 1]  # sinusoids of GPT-J and CTRL
    found = limit is not None and any(limit <= len(table) <= limit + MOST_SPARE for table in tables)
    return found or hasattr(model.config.get_text_config(), "max_seq_len")


def check_rows(rows: int, tokens: Tensor | Iterable[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise SpecError if a token id is beyond the rows of the embedding."""
    ids = torch.as_tensor(tokens).flatten()
    beyond = ids[(ids >= rows) | (ids < 0)]
    if len(beyond):
        token = int(beyond[0])
        raise SpecError(
            f"The tokenizer encodes {_get_word(tokenizer, token)} as token {token}, but the model's embedding has only"
            f" {rows:,} rows.",
            "Use the model's own tokenizer, or a text without that word.",
        )


def _get_word(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The token as it is spelled in the vocabulary."""
    word = tokenizer.convert_ids_to_tokens(token)
    return repr(word) if word else "a word"
