"""Any dataset of the hub: streamed, by its text column, with one sentence where it cannot be had."""

import time

import datasets
import pytest

from lsprism.calibration import hub_text
from lsprism.calibration.corpus import read_text
from lsprism.errors import CorpusError

ROWS = [{"body": "first text", "n": 1}, {"body": "second text", "n": 2}, {"body": "third", "n": 3}]


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds ROWS and remembers how it was asked."""
    asked = []

    def load_dataset(path, config=None, *, split, streaming=False):
        asked.append((path, config, split, streaming))
        return iter(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_rows_of_the_column_are_joined_by_blank_lines(hub):
    corpus = read_text("someone/texts", column="body")
    assert corpus.text == "first text\n\nsecond text\n\nthird"
    assert corpus.name == "someone/texts (train)"
    assert hub == [("someone/texts", None, "train", True)]


def test_a_configuration_is_named_after_a_colon(hub):
    read_text("someone/texts:en", column="body", split="test")
    assert hub == [("someone/texts", "en", "test", True)]


def test_no_more_rows_are_read_than_needed(hub, monkeypatch):
    monkeypatch.setattr(hub_text, "MOST_CHARACTERS", 15)
    assert read_text("someone/texts", column="body").text == "first text\n\nsecond text"


def test_a_missing_column_names_those_there_are(hub):
    with pytest.raises(CorpusError, match="no column 'text'.*body, n"):
        read_text("someone/texts")


def test_a_column_that_is_not_text_is_refused(hub):
    with pytest.raises(CorpusError, match="holds int, not text"):
        read_text("someone/texts", column="n")


@pytest.mark.parametrize(
    "error", [ConnectionError("no network"), ValueError("no such config"), FileNotFoundError("not found")]
)
def test_what_the_hub_refuses_is_one_sentence_with_the_next_step(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=f"someone/texts could not be had.*{error}.*embedded"):
        read_text("someone/texts")


def test_a_path_with_an_ending_is_never_taken_for_a_dataset(hub, tmp_path):
    with pytest.raises(CorpusError, match="There is no file"):
        read_text("folder/missing.txt")
    assert not hub


def test_rows_without_a_text_are_left_out(hub, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": "one"}, {"text": None}, {"text": "two"}])
    assert read_text("someone/texts").text == "one\n\ntwo"


def test_without_a_network_the_library_looks_into_its_cache_alone_and_does_not_stall(monkeypatch, tmp_path):
    """The real library against a port that nobody listens on."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    started = time.monotonic()
    for source in ("someone/texts", "wikitext2"):
        with pytest.raises(CorpusError, match="no network, and it is not in the cache[.].*embedded"):
            read_text(source)
    assert time.monotonic() - started < 5
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_asked(hub, monkeypatch):
    asked_offline = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_text, "_hub_answers", lambda endpoint: endpoint.startswith("https://"))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: asked_offline.append(datasets.config.HF_HUB_OFFLINE) or ROWS
    )
    read_text("someone/texts", column="body")
    assert asked_offline == [False]
