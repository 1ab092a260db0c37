"""What one stream has cost: time that passes between its steps, for another stream or a slow reader, does not count."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """A reading of the clock."""

    tokens: int = 0
    first_token_s: float | None = None  # prefill and first choice; None until then
    decode_s: float = 0.0  # all tokens after the first

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of decoding, prefill apart; None before the second token."""
        return (self.tokens - 1) / self.decode_s if self.decode_s > 0 else None


class Clock:
    """Runs inside `with clock.token()` only. Choosing a token waits for the device, so wall time is its time."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.timing = Timing()

    @contextmanager
    def token(self) -> Iterator[None]:
        """Around the work for one token; a token that fails is not counted."""
        started = self._now()
        yield
        seconds, so_far = self._now() - started, self.timing
        if so_far.first_token_s is None:
            self.timing = Timing(tokens=1, first_token_s=seconds)
        else:
            self.timing = Timing(so_far.tokens + 1, so_far.first_token_s, so_far.decode_s + seconds)
