"""Votes for the better answer: an append-only file with a line per vote, and their counts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from lsprism.chat.messages import Slot
from lsprism.errors import DiskError
from lsprism.json_files import parse
from lsprism.records.model_plan import Record

FILE = "votes.jsonl"
Z = 1.96  # 97.5 % quantile of the normal distribution
Verdict = Literal["left", "right", "equal", "bad"]


class Vote(Record):
    """One vote, without the prompt and the answers."""

    at: float  # seconds since 1970
    verdict: Verdict
    blind: bool  # model names were hidden and sides shuffled
    labels: dict[Slot, str]
    weights: dict[Slot, str]  # hashes of the weights, which identify the models


class VoteCount(Record):
    """Counts of the votes on one pair of models, by their current sides."""

    left: int = 0
    right: int = 0
    equal: int = 0
    bad: int = 0

    @property
    def decided(self) -> int:
        return self.left + self.right

    def compute_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the right side's fraction of decided votes (Wilson score interval, 1927)."""
        n, share = self.decided, self.right / self.decided
        middle, width = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return (middle - width) / (1 + Z**2 / n), (middle + width) / (1 + Z**2 / n)


class VoteStore:
    """The votes file of a state folder."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def add(self, vote: Vote) -> None:
        """Append a vote; DiskError if it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                stream.write(vote.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise DiskError(
                f"{self.path} cannot be written: {error.strerror or error}.",
                "Free some space; the vote is not counted.",
            ) from error

    def read_all(self) -> list[Vote]:
        """Read all votes; damaged lines are skipped."""
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return []
        return [vote for line in lines if (vote := _parse_vote(line)) is not None]


def count_votes(votes: Sequence[Vote], weights: dict[Slot, str], blind: bool) -> VoteCount:
    """Count the votes on these two models, on either side: the blind ones, or the open ones."""
    counts = dict.fromkeys(("left", "right", "equal", "bad"), 0)
    for vote in votes:
        if vote.blind == blind and sorted(vote.weights.values()) == sorted(weights.values()):
            crossed = vote.weights != weights
            counts[_swap_verdict(vote.verdict) if crossed else vote.verdict] += 1
    return VoteCount(**counts)


def _swap_verdict(verdict: Verdict) -> Verdict:
    crossed: dict[Verdict, Verdict] = {"left": "right", "right": "left"}
    return crossed.get(verdict, verdict)


def _parse_vote(line: bytes) -> Vote | None:
    try:
        return Vote.model_validate(parse(line))
    except (ValueError, ValidationError):
        return None
