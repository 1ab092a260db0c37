"""Text that grows token by token, whole characters only, at the cost of a few tokens' decoding per token."""

from transformers import PreTrainedTokenizerBase

_OPEN = "\ufffd"  # what decoders write for bytes that are no character, or not yet
# A character has four bytes at most, so three may be open. Byte-fallback decoders write one U+FFFD for each byte of a
# run that does not end with a character, and the character before, our context, belongs to that run: 4 + 3.
_MOST_OPEN = 7
# Tokens; reached by broken bytes only. The short one holds _MOST_OPEN characters U+FFFD of three bytes each.
_LONGEST_TAIL, _SHORT_TAIL = 48, 24


class Detokenizer:
    """Turns tokens into pieces of text whose concatenation is `tokenizer.decode` of all of them.

    Two kinds of token cannot be decoded alone: bytes of a character still open, and words whose leading space is
    dropped where a text begins. So a short tail is decoded as a whole: the tokens of the last piece, as context,
    and those after them; what it says beyond the characters already shown is new.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = set(tokenizer.all_special_ids).union(n for n, token in added.items() if token.special)
        self._tail: list[int] = []
        self._context = 0  # tokens of the tail that are context
        self._shown = 0  # characters of the tail's text that are out

    def push(self, token: int) -> str:
        """The text that is certain with this token; empty for special tokens and while a character is open."""
        if token in self._special:
            return ""
        self._tail.append(token)
        text = self._decode()
        certain = _certain(text)
        piece = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if piece and certain == text:
            self._keep(self._tail[self._context :])
        elif len(self._tail) > _LONGEST_TAIL:  # broken bytes, or tokens that never end where a character ends
            self._keep(self._tail[-_SHORT_TAIL:])
        return piece

    def finish(self) -> str:
        """The rest, open characters as U+FFFD; afterwards a new text may begin."""
        piece = self._decode()[self._shown :]
        self._tail, self._context, self._shown = [], 0, 0
        return piece

    def _keep(self, tail: list[int]) -> None:
        self._tail, self._context = tail, len(tail)
        self._shown = len(_certain(self._decode()))

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._tail, skip_special_tokens=True))


def _certain(text: str) -> str:
    """The text without those U+FFFD at its end that further bytes may still turn into a character."""
    return text[: max(len(text.rstrip(_OPEN)), len(text) - _MOST_OPEN)]
