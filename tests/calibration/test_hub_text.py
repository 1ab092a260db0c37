"""Hub datasets: streamed, by their text column, with a one-sentence error if they are not available."""

import time

import datasets
import pytest

from lsprism.calibration import hub_text
from lsprism.calibration.corpus import read_text
from lsprism.errors import CorpusError

ROWS = [{"body": "first text", "n": 1}, {"body": "second text", "n": 2}, {"body": "third", "n": 3}]


@pytest.fixture
def hub(monkeypatch):
    """A fake Hub with ROWS that records the requests."""
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


def test_a_missing_column_lists_the_existing_ones(hub):
    with pytest.raises(CorpusError, match="no column 'text'.*body, n"):
        read_text("someone/texts")


def test_a_column_that_is_not_text_is_refused(hub):
    with pytest.raises(CorpusError, match="contains int, not text"):
        read_text("someone/texts", column="n")


@pytest.mark.parametrize(
    "error", [ConnectionError("no network"), ValueError("no such config"), FileNotFoundError("not found")]
)
def test_a_hub_error_is_one_sentence_with_a_next_step(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=f"someone/texts could not be downloaded.*{error}.*embedded"):
        read_text("someone/texts")


def test_a_path_with_a_known_suffix_is_not_a_dataset(hub, tmp_path):
    with pytest.raises(CorpusError, match="^File .* not found"):
        read_text("folder/missing.txt")
    assert not hub


def test_rows_without_text_are_skipped(hub, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": "one"}, {"text": None}, {"text": "two"}])
    assert read_text("someone/texts").text == "one\n\ntwo"


def test_without_network_only_the_cache_is_used_at_once(monkeypatch, tmp_path):
    """The real library with an endpoint where no server listens."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    started = time.monotonic()
    for source in ("someone/texts", "wikitext2"):
        with pytest.raises(CorpusError, match="no network, and it is not in the cache[.].*embedded"):
            read_text(source)
    assert time.monotonic() - started < 5
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_reachable_hub_is_used(hub, monkeypatch):
    asked_offline = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_text, "_is_hub_reachable", lambda endpoint: endpoint.startswith("https://"))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: asked_offline.append(datasets.config.HF_HUB_OFFLINE) or ROWS
    )
    read_text("someone/texts", column="body")
    assert asked_offline == [False]
