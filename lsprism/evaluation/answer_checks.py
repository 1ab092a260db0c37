"""Checks whether an output is correct, by simple rules. An empty output is always incorrect.

Whole words are compared, ignoring case: "art" does not match in "party".
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, JsonValue, model_validator

from lsprism.evaluation.word_split import iter_spans
from lsprism.specs import Request

# A sign counts only if no word or digit precedes it: the last number in "10-5" is 5.
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
MOST_BRACKETS = 50  # limit of parsing attempts, for outputs that consist of brackets
Phrase = Annotated[str, Field(min_length=1)]
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]


class AnswerRule(Protocol):
    def check(self, answer: str) -> bool: ...


class AllOf(Request):
    """The output contains all of the texts."""

    kind: Literal["all_of"] = "all_of"
    texts: Phrases

    def check(self, answer: str) -> bool:
        return all(find_places(text, answer) for text in self.texts)


class AnyOf(Request):
    """The output contains at least one of the texts."""

    kind: Literal["any_of"] = "any_of"
    texts: Phrases

    def check(self, answer: str) -> bool:
        return any(find_places(text, answer) for text in self.texts)


class NoneOf(Request):
    """The output contains none of the texts."""

    kind: Literal["none_of"] = "none_of"
    texts: Phrases

    def check(self, answer: str) -> bool:
        return not any(find_places(text, answer) for text in self.texts)


class MultipleChoice(Request):
    """The last option mentioned in the output is the right one."""

    kind: Literal["choice"] = "choice"
    options: Phrases
    right: Phrase

    @model_validator(mode="after")
    def _check_right(self) -> "MultipleChoice":
        if self.right not in self.options:
            raise ValueError(f"the right choice {self.right!r} is not among the options")
        return self

    def check(self, answer: str) -> bool:
        last = {option: max(find_places(option, answer), default=-1) for option in self.options}
        return last[self.right] == max(last.values()) >= 0


class Number(Request):
    """The last number in the output is within `tolerance` of `value`. 1,250 is one number; a trailing % is ignored."""

    kind: Literal["number"] = "number"
    value: float
    tolerance: float = Field(0.0, ge=0)

    def check(self, answer: str) -> bool:
        found = NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
        return bool(found) and abs(float(found[-1].replace(",", "")) - self.value) <= self.tolerance


class Json(Request):
    """The first JSON object or list in the output equals `value`, ignoring the case of strings."""

    kind: Literal["json"] = "json"
    value: dict[str, JsonValue] | list[JsonValue]

    def check(self, answer: str) -> bool:
        found = next(_iter_json_values(answer), None)
        return found is not None and _normalize_case(found) == _normalize_case(self.value)


class LineCount(Request):
    """The output has this many non-empty lines."""

    kind: Literal["lines"] = "lines"
    count: int = Field(ge=1)

    def check(self, answer: str) -> bool:
        return sum(bool(line.strip()) for line in answer.splitlines()) == self.count


class WordCount(Request):
    """The number of words, separated by whitespace, is in [least, most]."""

    kind: Literal["words"] = "words"
    least: int = Field(1, ge=1)
    most: int = Field(ge=1)

    def check(self, answer: str) -> bool:
        return self.least <= len(answer.split()) <= self.most


Check = Annotated[
    AllOf | AnyOf | NoneOf | MultipleChoice | Number | Json | LineCount | WordCount, Field(discriminator="kind")
]


def is_right(checks: Sequence[AnswerRule], answer: str) -> bool | None:
    """Whether all checks hold; None if there are none."""
    return bool(answer.strip()) and all(check.check(answer) for check in checks) if checks else None


def find_places(text: str, answer: str) -> list[int]:
    """Positions in the output at which the words of `text` start; runs of whitespace count as one."""
    phrase = r"\s+".join(re.escape(word) for word in unicodedata.normalize("NFC", text).split())
    whole = unicodedata.normalize("NFC", answer)
    inside = {place for begin, end in iter_spans(whole) for place in range(begin + 1, end)}
    found = re.finditer(rf"(?<!_){phrase}(?!_)", whole, re.IGNORECASE)
    return [match.start() for match in found if not inside & {match.start(), match.end()}]


def _iter_json_values(answer: str) -> Iterator[Any]:
    """The JSON objects and lists that start at the first MOST_BRACKETS brackets."""
    for bracket in islice(re.finditer(r"[{\[]", answer), MOST_BRACKETS):
        try:
            yield json.JSONDecoder().raw_decode(answer, bracket.start())[0]
        except (ValueError, RecursionError):  # RecursionError: brackets nested a thousand deep
            continue


def _normalize_case(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value.strip().casefold()
    if isinstance(value, list):
        return [_normalize_case(item) for item in value]
    if isinstance(value, dict):
        return {key.casefold(): _normalize_case(item) for key, item in value.items()}
    return value
