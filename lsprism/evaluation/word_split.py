"""Word boundaries in any script.

A word is a run of letters and digits with their combining marks. In scripts without spaces, every character, with its
marks, is a word, as is usual for ROUGE on Chinese.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

Kind = Literal["letter", "single", "mark", "joiner", "gap"]

# Prefixes of the Unicode names of their characters.
UNSPACED = (
    "CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ",
    "TAI ", "NEW TAI ", "JAVANESE ", "BALINESE ",
)  # fmt: skip
ZERO_WIDTH_SPACE = "\u200b"  # separates words, unlike other format characters


def split_words(text: str) -> list[str]:
    """The words in lower case, Unicode-normalized, without invisible joiners."""
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    return ["".join(c for c in plain[begin:end] if _get_kind(c) != "joiner") for begin, end in iter_spans(plain)]


def iter_spans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every word."""
    begin, last = None, "gap"  # start of the current word, and the kind of its characters
    for place, character in enumerate(text):
        kind = _get_kind(character)
        if kind in ("mark", "joiner") or (kind == last == "letter"):
            continue
        if begin is not None:
            yield begin, place
        begin, last = (None, "gap") if kind == "gap" else (place, kind)
    if begin is not None:
        yield begin, len(text)


@lru_cache(maxsize=4096)
def _get_kind(character: str) -> Kind:
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    if category == "Cf" and character != ZERO_WIDTH_SPACE:
        return "joiner"
    if category[0] not in "LN":
        return "gap"
    return "single" if unicodedata.name(character, "").startswith(UNSPACED) else "letter"
