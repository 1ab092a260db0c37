"""Compute time of one stream, without the time between its steps (other streams, or a slow reader)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeTiming:
    """The tokens and times so far."""

    tokens: int = 0
    first_token_s: float | None = None  # prefill and sampling of the first token; None until then
    decode_s: float = 0.0  # total of all tokens after the first

    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed without prefill; None before the second token."""
        return (self.tokens - 1) / self.decode_s if self.decode_s > 0 else None


class Clock:
    """Runs only inside `with clock.token()`. Sampling a token synchronizes the device, so wall time is exact."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.timing = DecodeTiming()

    @contextmanager
    def measure_token(self) -> Iterator[None]:
        """Time the work for one token. A token whose work raises is not counted."""
        started = self._now()
        yield
        seconds, so_far = self._now() - started, self.timing
        if so_far.first_token_s is None:
            self.timing = DecodeTiming(tokens=1, first_token_s=seconds)
        else:
            self.timing = DecodeTiming(so_far.tokens + 1, so_far.first_token_s, so_far.decode_s + seconds)
