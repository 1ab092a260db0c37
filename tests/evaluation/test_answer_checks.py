"""Checks of the correctness of outputs."""

import pytest
from pydantic import TypeAdapter, ValidationError

from lsprism.evaluation.answer_checks import Check, is_right

READ = TypeAdapter(Check).validate_python


def holds(answer, **check):
    return is_right([READ(check)], answer)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The answer is 42.", True),
        ("42", True),
        ("6 x 7 = 42", True),
        ("**42**", True),
        ("It is 42, not 41", False),
        ("forty-two", False),
        ("142", False),
        ("4 2", False),
        ("", False),
    ],
)
def test_number_is_the_last_one(answer, right):
    assert holds(answer, kind="number", value=42) is right


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1,250,000 people", 1250000),
        ("3,4", 4),
        ("1,2345", 2345),
        ("it costs $1.40.", 1.4),
        ("10-5", 5),
        ("= -5", -5),
        ("\u22125 degrees", -5),
        ("25%", 25),
        ("18 / 3 = 6\n", 6),
        ("9" * 400, float("1e308")),
    ],
)
def test_number_formats(answer, value):
    assert holds(answer, kind="number", value=value) is (value < 1e300)


def test_number_within_tolerance():
    assert holds("3.14", kind="number", value=3.1416, tolerance=0.01)
    assert not holds("3.1", kind="number", value=3.1416, tolerance=0.01)


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("all_of", "Rain on the tin\n ROOF", True),
        ("all_of", "rain, tin roofs", False),
        ("all_of", "the train has a tin roof", False),
        ("any_of", "a tin  roof", True),
        ("any_of", "training", False),
        ("none_of", "training", True),
        ("none_of", "rain!", False),
        ("none_of", " ", False),
    ],
)
def test_texts_are_whole_words_in_any_case(kind, answer, right):
    assert holds(answer, kind=kind, texts=["rain", "tin roof"]) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Yes", True), ("no... wait, yes.", True), ("yes, or rather no", False), ("perhaps", False), ("yesterday", False)],
)
def test_choice_is_the_last_option_named(answer, right):
    assert holds(answer, kind="choice", options=["yes", "no"], right="yes") is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"name": "Lena", "age": 34}', True),
        ('Here it is:\n```json\n{"age": 34, "Name": "LENA "}\n```', True),
        ('{"name": "Lena", "age": "34"}', False),
        ('{"name": "Lena"}', False),
        ("{name: Lena, age: 34}", False),
        ("[" * 5000, False),
    ],
)
def test_json_is_the_first_value_there_is(answer, right):
    assert holds(answer, kind="json", value={"name": "Lena", "age": 34}) is right


def test_lines_and_words_are_counted():
    assert holds("one\n\ntwo \nthree\n", kind="lines", count=3)
    assert not holds("one\ntwo", kind="lines", count=3)
    assert holds("a b c", kind="words", most=3)
    assert not holds("a b c d", kind="words", most=3)
    assert not holds("a b", kind="words", least=3, most=9)


def test_all_checks_must_hold_and_none_means_unknown():
    checks = [READ({"kind": "all_of", "texts": ["rain"]}), READ({"kind": "lines", "count": 1})]
    assert is_right(checks, "rain") is True
    assert is_right(checks, "rain\nrain") is False
    assert is_right([], "rain") is None


@pytest.mark.parametrize(
    "check",
    [
        {"kind": "telepathy"},
        {"kind": "number"},
        {"kind": "number", "value": float("nan")},
        {"kind": "all_of", "texts": []},
        {"kind": "all_of", "texts": [""]},
        {"kind": "lines", "count": 2, "colour": "red"},
        {"kind": "choice", "options": ["yes"], "right": "no"},
    ],
)
def test_invalid_checks_are_errors(check):
    with pytest.raises(ValidationError):
        READ(check)
