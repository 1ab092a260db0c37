"""Whether an answer is right, by rules that need no judge. A blank answer never is.

Words are compared whole and without regard to case: "art" is not in "party".
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, JsonValue, model_validator

from lsprism.evaluation.wording import spans
from lsprism.specs import Request

# A sign counts only where no word or digit stands before it: the last number of "10-5" is 5.
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
MOST_BRACKETS = 50  # tried; a model that writes nothing else must not take minutes
Phrase = Annotated[str, Field(min_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]


class Rule(Protocol):
    def holds(self, answer: str) -> bool: ...


class AllOf(Request):
    """The answer names all of the texts."""

    kind: Literal["all_of"] = "all_of"
    texts: Phrases

    def holds(self, answer: str) -> bool:
        return all(places(text, answer) for text in self.texts)


class AnyOf(Request):
    """The answer names one of the texts or more."""

    kind: Literal["any_of"] = "any_of"
    texts: Phrases

    def holds(self, answer: str) -> bool:
        return any(places(text, answer) for text in self.texts)


class NoneOf(Request):
    """The answer names none of the texts."""

    kind: Literal["none_of"] = "none_of"
    texts: Phrases

    def holds(self, answer: str) -> bool:
        return not any(places(text, answer) for text in self.texts)


class Choice(Request):
    """Of the options, the one that the answer names last is the right one."""

    kind: Literal["choice"] = "choice"
    options: Phrases
    right: Phrase

    @model_validator(mode="after")
    def _right_is_an_option(self) -> "Choice":
        if self.right not in self.options:
            raise ValueError(f"the right choice {self.right!r} is not among the options")
        return self

    def holds(self, answer: str) -> bool:
        last = {option: max(places(option, answer), default=-1) for option in self.options}
        return last[self.right] == max(last.values()) >= 0


class Number(Request):
    """The last number in the answer is `value`, give or take `tolerance`. 1,250 is one number, a trailing % no part."""

    kind: Literal["number"] = "number"
    value: float
    tolerance: float = Field(0.0, ge=0)

    def holds(self, answer: str) -> bool:
        found = NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
        return bool(found) and abs(float(found[-1].replace(",", "")) - self.value) <= self.tolerance


class Json(Request):
    """The first JSON object or list in the answer equals `value`; texts in it without regard to case."""

    kind: Literal["json"] = "json"
    value: dict[str, JsonValue] | list[JsonValue]

    def holds(self, answer: str) -> bool:
        found = next(_values(answer), None)
        return found is not None and _folded(found) == _folded(self.value)


class Lines(Request):
    """The answer has this many lines that are not blank."""

    kind: Literal["lines"] = "lines"
    count: int = Field(ge=1)

    def holds(self, answer: str) -> bool:
        return sum(bool(line.strip()) for line in answer.splitlines()) == self.count


class Words(Request):
    """The answer has a number of words in [least, most]; a word is what stands between blanks."""

    kind: Literal["words"] = "words"
    least: int = Field(1, ge=1)
    most: int = Field(ge=1)

    def holds(self, answer: str) -> bool:
        return self.least <= len(answer.split()) <= self.most


Check = Annotated[AllOf | AnyOf | NoneOf | Choice | Number | Json | Lines | Words, Field(discriminator="kind")]


def is_right(checks: Sequence[Rule], answer: str) -> bool | None:
    """Whether all checks hold; None where there are none."""
    return bool(answer.strip()) and all(check.holds(answer) for check in checks) if checks else None


def places(text: str, answer: str) -> list[int]:
    """Where the words of `text` begin in the answer; runs of blanks count as one."""
    phrase = r"\s+".join(re.escape(word) for word in unicodedata.normalize("NFC", text).split())
    whole = unicodedata.normalize("NFC", answer)
    inside = {place for begin, end in spans(whole) for place in range(begin + 1, end)}
    found = re.finditer(rf"(?<!_){phrase}(?!_)", whole, re.IGNORECASE)
    return [match.start() for match in found if not inside & {match.start(), match.end()}]


def _values(answer: str) -> Iterator[Any]:
    """The JSON objects and lists that begin at the first MOST_BRACKETS brackets."""
    for bracket in islice(re.finditer(r"[{\[]", answer), MOST_BRACKETS):
        try:
            yield json.JSONDecoder().raw_decode(answer, bracket.start())[0]
        except (ValueError, RecursionError):  # brackets a thousand deep are no answer either
            continue


def _folded(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value.strip().casefold()
    if isinstance(value, list):
        return [_folded(item) for item in value]
    if isinstance(value, dict):
        return {key.casefold(): _folded(item) for key, item in value.items()}
    return value
