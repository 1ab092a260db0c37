"""Prompts and answers of both sides, and the first difference between two answers. Immutable values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lsprism.chat.messages import SLOTS, AnswerTiming, Message, Reason, Slot, TokenChunk


@dataclass(frozen=True)
class ChatAnswer:
    """The answer of one side so far; `texts[i]` is the text of `tokens[i]`."""

    tokens: tuple[int | None, ...] = ()
    texts: tuple[str, ...] = ()
    timing: AnswerTiming = AnswerTiming()
    reason: Reason | None = None  # why it ended; None: not finished
    failure: str = ""  # error message and next step

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add_chunk(self, words: TokenChunk) -> "ChatAnswer":
        return replace(
            self,
            tokens=(*self.tokens, *words.tokens),
            texts=(*self.texts, *words.texts),
            timing=words.timing,
            reason=words.reason,
        )


@dataclass(frozen=True)
class Turn:
    prompt: str
    answers: Mapping[Slot, ChatAnswer] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...] = ()

    def build_messages(self, slot: Slot, prompt: str, system: str = "") -> list[Message]:
        """The messages for one side: the conversation with its own answers, and the new prompt."""
        told = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns:
            answer = turn.answers.get(slot)
            if answer is not None and answer.text:
                told.append({"role": "user", "content": turn.prompt})
                told.append({"role": "assistant", "content": answer.text})
        return [*told, {"role": "user", "content": prompt}]

    def add_turn(self, turn: Turn) -> "Conversation":
        return Conversation((*self.turns, turn))

    def remove_last(self) -> tuple["Conversation", str]:
        """The conversation without its last turn, and that turn's prompt; "" if there is none."""
        return (Conversation(self.turns[:-1]), self.turns[-1].prompt) if self.turns else (self, "")


@dataclass(frozen=True)
class Divergence:
    """The first difference between two answers."""

    agreed: int  # number of equal tokens before it
    places: dict[Slot, tuple[int, int]]  # first differing token: characters [begin, end) of each answer's text


def find_divergence(answers: Mapping[Slot, ChatAnswer], same_tokens: bool) -> Divergence | None:
    """The first difference; None if there is none so far. Without `same_tokens` (two tokenizers), compares texts."""
    if not all(slot in answers for slot in SLOTS):
        return None
    left, right = (answers[slot] for slot in SLOTS)
    if same_tokens:
        one = other = _find_difference(left.tokens, right.tokens)
    else:
        character = _find_difference(left.text, right.text)
        one, other = _find_token(left, character), _find_token(right, character)
    if one is None or other is None:
        return None
    places = {slot: _get_span(answers[slot], number) for slot, number in zip(SLOTS, (one, other), strict=True)}
    return Divergence(agreed=one, places=places)


def compute_speed_up(answers: Mapping[Slot, ChatAnswer]) -> float | None:
    """Tokens per second of the right side divided by those of the left side; None if one is missing."""
    left, right = (answers[slot].timing.tokens_per_s if slot in answers else None for slot in SLOTS)
    return right / left if left and right else None


def _find_difference(one: tuple | str, other: tuple | str) -> int | None:
    """Index of the first difference in the common length, ignoring tokens that were never computed; None if equal."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b and a is not None and b is not None), None)


def _find_token(answer: ChatAnswer, character: int | None) -> int | None:
    if character is None:
        return None
    for number, text in enumerate(answer.texts):
        character -= len(text)
        if character < 0:
            return number
    return None


def _get_span(answer: ChatAnswer, number: int) -> tuple[int, int]:
    """Characters [begin, end) of a token; empty for an end token or an incomplete character."""
    begin = sum(map(len, answer.texts[:number]))
    return begin, begin + len(answer.texts[number])
