"""The clock of one stream, with simulated time."""

import pytest

from lsprism.generation.timing import Clock


class Time:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def pass_by(self, seconds):
        self.seconds += seconds


def test_time_runs_only_while_a_token_is_computed():
    time = Time()
    clock = Clock(time)
    for seconds in (3.0, 0.5, 0.25):
        time.pass_by(100)
        with clock.measure_token():
            time.pass_by(seconds)
    timing = clock.timing
    assert (timing.tokens, timing.first_token_s, timing.decode_s) == (3, 3.0, 0.75)
    assert timing.tokens_per_s == pytest.approx(2 / 0.75)


def test_no_speed_before_the_second_token():
    time = Time()
    clock = Clock(time)
    assert (clock.timing.tokens, clock.timing.first_token_s, clock.timing.tokens_per_s) == (0, None, None)
    with clock.measure_token():
        time.pass_by(1)
    assert clock.timing.tokens_per_s is None


def test_readings_are_immutable_and_failed_tokens_do_not_count():
    time = Time()
    clock = Clock(time)
    with clock.measure_token():
        time.pass_by(1)
    reading = clock.timing
    with pytest.raises(RuntimeError), clock.measure_token():
        time.pass_by(5)
        raise RuntimeError
    assert clock.timing == reading
    with clock.measure_token():
        time.pass_by(2)
    assert (reading.tokens, clock.timing.tokens, clock.timing.decode_s) == (1, 2, 2.0)
