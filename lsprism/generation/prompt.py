"""From a prompt or a conversation to the tokens that the model reads."""

from collections.abc import Sequence

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lsprism.errors import SpecError

Message = dict[str, str]  # "role": system, user or assistant; "content": text


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], chat: bool | None = None) -> Tensor:
    """Tokens [1, n] of a text or of messages.

    chat=True renders the tokenizer's chat template (a text becomes one user message), chat=False lets the model go on
    from the plain text (the contents of messages, a blank line between them), None chats if there is a template.
    Raises SpecError if there is no template to chat with, if it refuses the messages, or if nothing is left to read.
    """
    if chat is None:
        chat = bool(tokenizer.chat_template)
    ids = _chat(tokenizer, prompt) if chat else _completion(tokenizer, prompt)
    if not ids:
        raise SpecError("The prompt is empty, and this model has no token that begins a text.", "Write some words.")
    return torch.tensor([ids])


def _chat(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message]) -> list[int]:
    if not tokenizer.chat_template:
        raise SpecError("This model's tokenizer has no chat template.", "Ask for a plain completion instead.")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    try:  # tokenized in the same call, which knows that the template has written the special tokens already
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise SpecError(
            f"The model's chat template refuses messages of {roles}: {error}.",
            "Begin with a user message and alternate with the assistant's, or ask for a plain completion.",
        ) from error


def _completion(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message]) -> list[int]:
    text = prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    ids = tokenizer(text, add_special_tokens=not begun)["input_ids"]
    if not ids and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    return ids
