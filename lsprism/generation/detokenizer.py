"""Incremental detokenization: complete characters only, by decoding a few tokens per new token."""

from transformers import PreTrainedTokenizerBase

_OPEN = "\ufffd"  # what decoders write for invalid or incomplete bytes
# A character has up to four bytes, so three may be incomplete. Byte-fallback decoders write one U+FFFD for each byte of
# a run that does not end with a complete character, and the preceding character, our context, is part of it: 4 + 3.
_MOST_OPEN = 7
# Tokens; only invalid bytes reach the limit. The short tail covers _MOST_OPEN characters U+FFFD of three bytes each.
_LONGEST_TAIL, _SHORT_TAIL = 48, 24


class Detokenizer:
    """Converts tokens to pieces of text whose concatenation equals `tokenizer.decode` of all tokens.

    Two kinds of tokens cannot be decoded alone: bytes of an incomplete character, and words whose leading space is
    dropped at the start of a text. So a short tail is decoded as a whole: the tokens of the last piece as context,
    and those after them. Its text beyond the characters already returned is new.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = set(tokenizer.all_special_ids).union(n for n, token in added.items() if token.special)
        self._tail: list[int] = []
        self._context = 0  # tokens of the tail that are context
        self._shown = 0  # characters of the tail's text that have been returned

    def push(self, token: int) -> str:
        """The text completed by this token; empty for special tokens and while a character is incomplete."""
        if token in self._special:
            return ""
        self._tail.append(token)
        text = self._decode()
        certain = _remove_uncertain(text)
        piece = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if piece and certain == text:
            self._store_tail(self._tail[self._context :])
        elif len(self._tail) > _LONGEST_TAIL:  # invalid bytes, or tokens that never end on a character boundary
            self._store_tail(self._tail[-_SHORT_TAIL:])
        return piece

    def finish(self) -> str:
        """The rest, with incomplete characters as U+FFFD. Resets the state for a new text."""
        piece = self._decode()[self._shown :]
        self._tail, self._context, self._shown = [], 0, 0
        return piece

    def _store_tail(self, tail: list[int]) -> None:
        self._tail, self._context = tail, len(tail)
        self._shown = len(_remove_uncertain(self._decode()))

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._tail, skip_special_tokens=True))


def _remove_uncertain(text: str) -> str:
    """The text without trailing U+FFFD that further bytes may still complete."""
    return text[: max(len(text.rstrip(_OPEN)), len(text) - _MOST_OPEN)]
