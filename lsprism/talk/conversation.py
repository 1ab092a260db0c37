"""What was asked and answered on both sides, and where their answers part. Frozen values; nothing here computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lsprism.talk.words import SLOTS, Message, Reason, Slot, Timing, Words


@dataclass(frozen=True)
class Answer:
    """One side's, as far as it is; `tokens` and `texts` belong together."""

    tokens: tuple[int | None, ...] = ()
    texts: tuple[str, ...] = ()
    timing: Timing = Timing()
    reason: Reason | None = None  # why it ended; None: it goes on
    failure: str = ""  # what went wrong, and the next step

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def grown(self, words: Words) -> "Answer":
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
    answers: Mapping[Slot, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...] = ()

    def messages(self, slot: Slot, prompt: str, system: str = "") -> list[Message]:
        """What one side is told: its own answers, not the other's."""
        told = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns:
            answer = turn.answers.get(slot)
            if answer is not None and answer.text:
                told.append({"role": "user", "content": turn.prompt})
                told.append({"role": "assistant", "content": answer.text})
        return [*told, {"role": "user", "content": prompt}]

    def with_turn(self, turn: Turn) -> "Conversation":
        return Conversation((*self.turns, turn))

    def without_last(self) -> tuple["Conversation", str]:
        """The conversation before its last turn, and that turn's prompt; "" where there is none."""
        return (Conversation(self.turns[:-1]), self.turns[-1].prompt) if self.turns else (self, "")


@dataclass(frozen=True)
class Parting:
    """Where two answers say different things for the first time."""

    agreed: int  # tokens that are the same
    places: dict[Slot, tuple[int, int]]  # of the first other token: characters [begin, end) of the answer's text


def parting(answers: Mapping[Slot, Answer], same_tokens: bool) -> Parting | None:
    """None as long as they agree. Without `same_tokens` (two tokenizers) texts are compared, character by character."""
    if not all(slot in answers for slot in SLOTS):
        return None
    left, right = (answers[slot] for slot in SLOTS)
    if same_tokens:
        one = other = _first_other(left.tokens, right.tokens)
    else:
        character = _first_other(left.text, right.text)
        one, other = _token_at(left, character), _token_at(right, character)
    if one is None or other is None:
        return None
    places = {slot: _span(answers[slot], number) for slot, number in zip(SLOTS, (one, other), strict=True)}
    return Parting(agreed=one, places=places)


def speed_up(answers: Mapping[Slot, Answer]) -> float | None:
    """Right side's tokens per second, divided by the left side's."""
    left, right = (answers[slot].timing.tokens_per_s if slot in answers else None for slot in SLOTS)
    return right / left if left and right else None


def _first_other(one: tuple | str, other: tuple | str) -> int | None:
    """Place of the first difference; an end of either is none. A token that was never computed is none either."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b and a is not None and b is not None), None)


def _token_at(answer: Answer, character: int | None) -> int | None:
    if character is None:
        return None
    for number, text in enumerate(answer.texts):
        character -= len(text)
        if character < 0:
            return number
    return None


def _span(answer: Answer, number: int) -> tuple[int, int]:
    """A token without text of its own (an end, a character still open) is an empty place."""
    begin = sum(map(len, answer.texts[:number]))
    return begin, begin + len(answer.texts[number])
