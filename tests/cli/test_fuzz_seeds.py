"""Cases of tests/bench/fuzz.py that once ended in a traceback. They mean what they meant as long as the generators of
that file draw the same dice; each kind of fault has a test of its own besides, with the right value."""

import os
from collections.abc import Iterator

import pytest
from bench import fuzz

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = [
    "artifact:1:189",  # a bitmap with more places than values, in spectra and in a dense copy
    "artifact:1:202",  # a budget that is a text
    "artifact:2:128",
    "form:1:27",  # the 45th of a month in YAML
    "form:1:180",  # a number that is none
    "report:0:70",  # a model of no parameters
    "report:0:178",
    "report:2:107",  # a figure that is no UTF-8
    "folder:2:593",  # half of a surrogate pair in a message
    "folder:1:46",  # JSON of three thousand brackets
    "artifact:1:35",
    "folder:1:30",  # a model type that is a list
    "folder:1:540",
    "folder:1:128",  # architectures that are a number
    "folder:1:509",
    "folder:0:124",  # a text where a config has an object
    "folder:0:188",
    "folder:1:242",  # a longest text that is no number, in the tokenizer's config
    "folder:2:696",
    "folder:3:993",
    "folder:3:1049",
    "folder:3:1240",
    "folder:1:438",  # tied tensors of which one is missing
    "folder:0:60",  # a vocabulary without the padding token
    "folder:0:731",  # sizes below zero
    "artifact:1:30",  # an index that names no files
    "artifact:1:132",
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[fuzz.Bench]:
    before = dict(os.environ)
    yield fuzz.Bench(tmp_path_factory.mktemp("bench"))
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_case_that_once_failed_ends_in_a_sentence(bench, seed):
    kind, number, case = seed.split(":")
    assert fuzz.check(bench, kind, int(number), int(case))


def test_a_case_depends_on_its_number_alone(bench):
    first = [fuzz.check(bench, "texts", 0, number) for number in (3, 4, 5)]
    assert first == [fuzz.check(bench, "texts", 0, number) for number in (3, 4, 5)]


def test_a_sweep_counts_what_came_of_all(bench, capsys):
    assert fuzz.sweep(bench, 0, 12) == 0
    said = capsys.readouterr().out
    assert all(f"{kind}: " in said for kind in fuzz.KINDS)
