"""Word boundaries in any script."""

import pytest

from lsprism.evaluation.answer_checks import find_places
from lsprism.evaluation.metrics import Rouge
from lsprism.evaluation.word_split import iter_spans, split_words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Don't stop, foo_bar 3.5!", ["don", "t", "stop", "foo", "bar", "3", "5"]),  # as rouge-score does
        ("हिन्दी में कि की", ["हिन्दी", "में", "कि", "की"]),  # vowel signs are marks
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("العَرَبِيَّة لغة", ["العَرَبِيَّة", "لغة"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),  # one form for both
        ("水流过，桥。", ["水", "流", "过", "桥"]),  # a script without spaces
        ("ひらがなカナー 3個", ["ひ", "ら", "が", "な", "カ", "ナ", "ー", "3", "個"]),
        ("สวัสดี ผม", ["ส", "วั", "ส", "ดี", "ผ", "ม"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("می\u200cخواهم بروم", ["میخواهم", "بروم"]),  # an invisible joiner
        ("one\u200btwo", ["one", "two"]),
        ("\u0301 - \u200d", []),  # marks and joiners alone
        ("", []),
    ],
)
def test_words_are_complete(text, wanted):
    assert split_words(text) == wanted


def test_spans_are_where_the_words_stand():
    text = "a की, 水x "
    assert [text[begin:end] for begin, end in iter_spans(text)] == ["a", "की", "水", "x"]


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("कि", "की", 0.0),
        ("नदी बहती है", "नदी सूखी है", 2 / 3),
        ("水流过桥", "水流过河", 3 / 4),
        ("水流过桥", "鸟在唱歌", 0.0),
    ],
)
def test_rouge_counts_equal_words(one, other, value):
    assert Rouge().compute(predictions=[one], references=[other])["rouge1"].values == [pytest.approx(value)]


@pytest.mark.parametrize(
    ("text", "answer", "wanted"),
    [
        ("art", "a party of art", [11]),
        ("कि", "की कि", [3]),
        ("क", "कि", []),
        ("水", "流水过", [1]),
        ("foo", "foo_bar", []),
        ("C++", "C++ and C", [0]),
        ("3.5", "is 3.5.", [3]),
        ("cafe\u0301", "the café", [4]),
    ],
)
def test_only_whole_words_match(text, answer, wanted):
    assert find_places(text, answer) == wanted
