"""Sends tokens in batches, a few times per second, so that sending costs less than computing them."""

import time
from collections.abc import Callable

from lsprism.chat.messages import AnswerTiming, Slot, TokenChunk, WorkerEvent
from lsprism.generation.stream import Piece
from lsprism.generation.timing import DecodeTiming as Clocked

EVERY_S = 0.08


class TokenBatcher:
    """The token events of one request."""

    def __init__(self, tell: Callable[[WorkerEvent], None], work: int) -> None:
        self._tell, self._work = tell, work
        self._held: dict[Slot, list[Piece]] = {}
        self._sent = 0.0

    def add(self, slot: Slot, piece: Piece) -> None:
        held = self._held.setdefault(slot, [])
        held.append(piece)
        first = piece.timing.tokens <= 1
        if piece.reason or first or time.monotonic() - self._sent > EVERY_S:
            self.flush()

    def flush(self) -> None:
        for slot, pieces in self._held.items():
            self._tell(_make_chunk(self._work, slot, pieces))
        self._held, self._sent = {}, time.monotonic()


def _make_chunk(work: int, slot: Slot, pieces: list[Piece]) -> TokenChunk:
    return TokenChunk(
        work=work,
        slot=slot,
        tokens=[piece.token for piece in pieces],
        texts=[piece.text for piece in pieces],
        timing=_make_timing(pieces[-1].timing),
        reason=pieces[-1].reason,
    )


def _make_timing(clocked: Clocked) -> AnswerTiming:
    return AnswerTiming(tokens=clocked.tokens, first_token_s=clocked.first_token_s, tokens_per_s=clocked.tokens_per_s)
