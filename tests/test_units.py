"""The terminal and the dashboard write numbers the same way."""

import pytest

from lsprism.units import format_amount, format_duration, format_rough_duration, format_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (12_345_678, "12.3 MB"),
        (165_611_940, "166 MB"),
        (14_960_000_000, "15 GB"),
        (5e12, "5000 GB"),
    ],
)
def test_size_has_three_digits(count, text):
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (9.4, "9 s"), (59.6, "1 min 00 s"), (130, "2 min 10 s"), (3900, "1 h 05 min")]
)
def test_duration_is_exact_to_the_second_or_minute(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (89, "1 min 29 s"), (95, "2 min"), (1006, "17 min"), (3900, "1 h 05 min")]
)
def test_an_estimated_duration_has_no_seconds_from_90_on(seconds, text):
    assert format_rough_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512"), (76_100, "76.1 thousand"), (81.4e6, "81.4 million"), (8.03e9, "8.03 billion")]
)
def test_amounts_are_in_words(number, text):
    assert format_amount(number) == text


def test_the_terminal_uses_them():
    from lsprism.cli import display, tables

    assert tables.format_size is format_size and display.format_remaining(130) == "2 min 10 s left"
