"""For any JSON file, the reader returns the expected structure or an error that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsprism.errors import DamagedError, SourceError
from lsprism.json_files import Shape, parse, read_known, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), inner),
    max_leaves=9,
)
TEXTS = VALUES.map(json.dumps).flatmap(lambda text: st.integers(0, len(text)).map(lambda end: text[:end].encode()))


class Wanted(Shape):
    a: dict[str, str]
    b: list[int] | None = None


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "some.json"


def fits(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("a"), dict):
        return False
    numbers = content.get("b")
    whole = lambda number: isinstance(number, int) and not isinstance(number, bool)
    listed = numbers is None or (isinstance(numbers, list) and all(whole(number) for number in numbers))
    return listed and all(isinstance(value, str) for value in content["a"].values())


@settings(
    max_examples=100, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=VALUES.map(lambda value: json.dumps(value).encode()) | TEXTS | st.binary(max_size=40))
def test_any_file_is_valid_or_named(file, data):
    file.write_bytes(data)
    try:
        content = parse(data)
    except ValueError:
        content = None
    assert repr(read_known(file)) == repr(content if isinstance(content, dict) else {})  # NaN is not itself
    if fits(content):
        assert read_object(file, Wanted).keys() == content.keys()
        return
    with pytest.raises(DamagedError) as caught:
        read_object(file, Wanted, DamagedError, "Do this.")
    message = caught.value.message
    assert message.startswith(str(file)) and message.endswith(".") and "\n" not in message
    assert len(message) < len(str(file)) + 200 and caught.value.hint == "Do this."
    message.encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100000, "nested too deeply"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b'{"a": {"b": "\\ud800"}}', "lone surrogate"),
        (b'{"a": null}', "a is null, which should be a valid object"),
        (b'{"a": {"b": 7}}', "a.b is 7, which should be a valid string"),
        (b'{"a": {}, "b": "12"}', 'b is "12", which should be a valid list'),
        (b'{"b": []}', "a is missing"),
        (b"null", "contains null, not a JSON object"),
        (b"version https://git-lfs.github.com/spec/v1\n", "only a Git LFS pointer"),
        (b"1" * 5000, "is not valid JSON"),
    ],
)  # fmt: skip
def test_errors_describe_the_problem(file, text, said):
    file.write_bytes(text)
    with pytest.raises(SourceError, match=said):
        read_object(file, Wanted)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(SourceError, match="cannot be read: "):
            read_object(path)
        assert read_known(path) == {}
