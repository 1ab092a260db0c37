"""From a prompt or a conversation to input tokens.

The result is checked: it contains the user's text, starts with the tokenizer's start tokens, and has no end token that
the tokenizer appended.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lsprism.errors import SpecError
from lsprism.models.tokens import encode_plain, find_start_tokens

Message = dict[str, str]  # "role": system, user or assistant; "content": text
Form = Callable[[Sequence[Message]], list[dict[str, Any]]]  # converts messages for a template
MARK = "qzxv{}"  # text that does not occur in any template
PRINTED = re.compile(r"['\"]text['\"]: ?['\"]qzxv")  # a content list, printed by a template that expects text
FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)  # of a chat template
COMPLETION = "use a plain completion"


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], chat: bool | None = None) -> Tensor:
    """Tokens [1, n] of a text or of messages.

    chat=True renders the tokenizer's chat template (a text becomes one user message). chat=False encodes the plain text
    for a completion (the contents of messages, separated by blank lines). None: True if there is a template.
    Raises SpecError if the template is missing, rejects the messages or drops their content, if the text is not valid
    Unicode, or if there are no tokens.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    messages = [{**message, "content": _merge_surrogates(message["content"])} for message in messages]
    if chat is None:
        chat = bool(tokenizer.chat_template)
    text = _render_messages(tokenizer, messages) if chat else "\n\n".join(message["content"] for message in messages)
    typed = "".join(message["content"] for message in messages)
    if typed.strip() and not encode_plain(tokenizer, typed):
        raise SpecError("The tokenizer has no token for any part of the prompt.", "Use text that the model supports.")
    ids = _add_start(tokenizer, _open_ended(tokenizer, text))
    if not ids:
        raise SpecError("The prompt is empty, and this tokenizer has no BOS token.", "Write some text.")
    return torch.tensor([ids])


def _merge_surrogates(text: str) -> str:
    """Combine the surrogate pairs of the text; SpecError for an unpaired one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        place, half = next((n, c) for n, c in enumerate(text) if "\ud800" <= c <= "\udfff")
        raise SpecError(
            f"The prompt contains the unpaired surrogate {half!r} at character {place + 1}.",
            "Encode the prompt as UTF-8.",
        ) from None


def _add_start(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Put the tokenizer's start tokens in front, unless a template or the text itself contains BOS already."""
    start = find_start_tokens(tokenizer)
    if not ids and not start and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    begun = ids[: len(start)] == start or (ids and ids[0] == tokenizer.bos_token_id)
    return ids if begun else [*start, *ids]


def _open_ended(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of the text, without an end token that the tokenizer appended."""
    ids = encode_plain(tokenizer, text)
    while ids and ids[-1] == tokenizer.eos_token_id and not text.rstrip().endswith(tokenizer.eos_token):
        ids = ids[:-1]
    return ids


def _render_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Render the messages with the chat template, with content as text or, if it requires that, as a list of parts."""
    template, failures = _get_template(tokenizer), []
    marked = [{**message, "content": MARK.format(n)} for n, message in enumerate(messages)]
    for form in (_to_texts, _to_parts):
        try:
            text = _render(tokenizer, template, form(messages))
            # A short prompt may occur in the template by chance; a mark does not.
            probe = _render(tokenizer, template, form(marked))
            if _has_all(text, messages) and _has_all(probe, marked) and not PRINTED.search(probe):
                return text
        except FAILURES as error:
            failures.append(error)
    if failures:
        roles = ", ".join(message["role"] for message in messages)
        raise SpecError(
            f"The model's chat template rejects messages with the roles {roles}: {failures[0]}.",
            f"Start with a user message and alternate with assistant messages, or {COMPLETION}.",
        ) from failures[0]
    raise SpecError("The model's chat template drops the prompt.", f"Leave out the system prompt, or {COMPLETION}.")


def _get_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template; of several named ones, the one called default."""
    named = tokenizer.chat_template
    if not named:
        raise SpecError("This model's tokenizer has no chat template.", f"{COMPLETION.capitalize()} instead.")
    if not isinstance(named, dict):
        return named
    found = named.get("default") or (next(iter(named.values())) if len(named) == 1 else None)
    if found is None:
        raise SpecError(
            f"This model's tokenizer has several chat templates ({', '.join(named)}), but none is called default.",
            f"Save one of them as chat_template.jinja in the model's folder, or {COMPLETION}.",
        )
    return found


def _render(tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, Any]]) -> str:
    text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert isinstance(text, str)
    return text


def _to_texts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return list(messages)


def _to_parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _has_all(text: str, messages: Sequence[Message]) -> bool:
    """Whether the text contains all messages, ignoring white space.

    Except the assistant's: a template may drop a part of these, such as reasoning.
    """
    there = "".join(text.split())
    return all("".join(m["content"].split()) in there for m in messages if m["role"] != "assistant")
