import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from pyarrow import parquet
from transformers import AutoTokenizer

from lsprism.calibration import corpus
from lsprism.calibration.corpus import Corpus, cut_windows, read_text, split_windows, tokenize
from lsprism.errors import CorpusError

ROWS = ["one river", "", "two\nstones \u2028 sing"]
JOINED = "one river\n\n\n\ntwo\nstones \u2028 sing"


def write_parquet(path: Path, **columns: list) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def write_jsonl(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(source: object, **options: str) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        read_text(str(source), **options)
    assert caught.value.hint, "every error names a next step"
    return caught.value


# Embedded texts


def test_embedded_texts_are_long_enough():
    calibration, evaluation = read_text("embedded"), read_text("embedded", split="test")
    assert calibration.name == "embedded calibration text" and evaluation.name == "embedded evaluation text"
    assert len(calibration.text.split()) >= 15_000
    assert len(evaluation.text.split()) >= 6_000


def test_embedded_texts_share_no_sentence():
    def sentences(text: str) -> set[str]:
        found = re.split(r'(?<=[.!?;:"”])\s+|\n+', text)
        return {" ".join(sentence.split()) for sentence in found if len(sentence.strip()) > 40}

    calibration, evaluation = (sentences(read_text("embedded", split=split).text) for split in ("train", "test"))
    assert len(calibration) > 500 and len(evaluation) > 200
    assert not calibration & evaluation


def test_the_embedded_calibration_text_is_only_the_train_split():
    assert read_text("embedded", split="validation") == read_text("embedded", split="test") != read_text("embedded")


# Files


def test_three_formats_give_the_same_text(tmp_path):
    (tmp_path / "a.txt").write_text(JOINED, encoding="utf-8")
    write_jsonl(tmp_path / "b.jsonl", *(json.dumps({"text": row, "n": 1}, ensure_ascii=False) for row in ROWS))
    write_parquet(tmp_path / "c.parquet", text=ROWS, n=[1, 2, 3])
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        assert read_text(str(tmp_path / name)) == Corpus(name, JOINED)


def test_the_column_is_selected_and_missing_values_are_skipped(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", '{"text": "no", "body": "a"}', "", '{"body": null}', '{"body": "b"}')
    write_parquet(tmp_path / "c.parquet", text=["no"] * 3, body=["a", None, "b"])
    assert read_text(str(tmp_path / "b.jsonl"), "body").text == "a\n\nb"
    assert read_text(str(tmp_path / "c.parquet"), "body").text == "a\n\nb"


def test_uppercase_suffixes_byte_order_marks_and_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "A.TXT").write_text("\ufeffone", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_text("~/A.TXT") == Corpus("A.TXT", "one")


def test_an_unpaired_surrogate_becomes_a_question_mark(tmp_path):
    text = read_text(str(write_jsonl(tmp_path / "a.jsonl", r'{"text": "ok \ud83d\ude00 cut \ud83d"}'))).text
    assert text == "ok \U0001f600 cut ?"


# Errors


def test_no_file(tmp_path):
    assert "not found" in refusal(tmp_path / "gone.txt").message
    assert "wikitexd2" in refusal("wikitexd2").message
    assert "cannot be read" in refusal("x" * 5000).message
    assert "~nobody-here" in refusal("~nobody-here/a.txt").message


def test_folder(tmp_path):
    assert str(tmp_path) in refusal(tmp_path).message


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\n")
    error = refusal(tmp_path / "a.csv")
    assert "'.csv'" in error.message and ".parquet" in error.hint


def test_no_text(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n")
    (tmp_path / "b.jsonl").write_text("")
    write_parquet(tmp_path / "c.parquet", text=pa.array([], pa.string()))
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        assert name in refusal(tmp_path / name).message


@pytest.mark.parametrize("line", ['{"text": "cut', '["text"]', "[" * 100_000, '{"text": ' + "9" * 5000 + "}"])
def test_broken_jsonl_line_is_named(tmp_path, line):
    assert "line 3" in refusal(write_jsonl(tmp_path / "a.jsonl", '{"text": "one"}', "", line)).message


def test_a_missing_column_lists_the_existing_ones(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", '{"text": "one"}', '{"body": "two", "id": 2}')
    table = write_parquet(tmp_path / "b.parquet", body=["two"], id=[2])
    for error in (refusal(jsonl), refusal(table)):
        assert "'text'" in error.message and "body, id" in error.hint
    assert "line 2" in refusal(jsonl).message


def test_column_without_text(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", '{"text": "one"}', '{"text": 2}')
    table = write_parquet(tmp_path / "b.parquet", text=[1, 2])
    assert "line 2" in refusal(jsonl).message
    for error in (refusal(jsonl), refusal(table)):
        assert "contains int, not text" in error.message


def test_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "café"}'.encode("latin-1"))
    wrong = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    write_parquet(tmp_path / "c.parquet", text=wrong)
    assert "at byte 3" in refusal(tmp_path / "a.txt").message
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        assert "not UTF-8" in refusal(tmp_path / name).message


def test_damaged_parquet(tmp_path):
    whole = write_parquet(tmp_path / "a.parquet", text=ROWS * 100).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "torn.parquet").write_bytes(whole[:4] + bytes(len(whole) - 12) + whole[-8:])
    (tmp_path / "empty.parquet").write_bytes(b"")
    for name in ("cut", "torn", "empty"):
        assert "not a complete parquet file" in refusal(tmp_path / f"{name}.parquet").message


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("one")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert "Permission denied" in refusal(tmp_path / "a.txt").message


# WikiText-2


@pytest.mark.parametrize("split", ["train", "test"])
def test_wikitext2_joins_rows_by_blank_lines(monkeypatch, split):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_dict({"text": ["", " = A = \n", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_text("wikitext2", split=split) == Corpus(f"WikiText-2 raw ({split})", "\n\n = A = \n\n\nb")
    assert asked == [(("Salesforce/wikitext", "wikitext-2-raw-v1"), {"split": split})]


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("Couldn't reach 'Salesforce/wikitext' on the Hub (OfflineModeIsEnabled)"),
        OfflineModeIsEnabled("Offline mode is enabled."),
        HfHubHTTPError("503", response=httpx.Response(503, request=httpx.Request("GET", "https://huggingface.co"))),
        DatasetNotFoundError("Dataset 'Salesforce/wikitext' doesn't exist on the Hub or cannot be accessed."),
        DatasetGenerationError("An error occurred while generating the dataset"),
        FileNotFoundError("Couldn't find any data file"),
        ValueError("Couldn't find cache for Salesforce/wikitext for config 'wikitext-2-raw-v1'"),
        httpx.ReadError("connection reset"),
        httpx.ReadTimeout(""),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_hub_error_suggests_local_text(monkeypatch, failure):
    def load_dataset(*_, **__):
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refusal("wikitext2")
    assert "WikiText-2 raw (train)" in error.message and "\n" not in error.message
    assert "--calibration embedded" in error.hint and ".txt" in error.hint
    assert error.__cause__ is failure


# Windows


def test_tokenize_is_the_tokenizers_default_and_does_not_warn(tiny_folder, text_file, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.model_max_length = 16
    text = text_file.read_text()
    tokens = tokenize(tokenizer, text)
    assert tokens.dtype == torch.int64 and tokens.tolist() == tokenizer(text, verbose=False).input_ids
    assert not caplog.records


def test_windows_depend_on_the_seed():
    tokens = torch.arange(10_000)
    global_state = torch.get_rng_state()
    first = cut_windows(tokens, 32, 64, seed=5)
    torch.rand(3)
    assert torch.equal(first, cut_windows(tokens, 32, 64, seed=5))
    assert not torch.equal(first, cut_windows(tokens, 32, 64, seed=6))
    torch.set_rng_state(global_state)
    cut_windows(tokens, 32, 64, seed=5)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_windows_are_spread_over_the_whole_text():
    tokens = torch.arange(1_000) * 7
    found = cut_windows(tokens, 4_000, 10, seed=0)
    assert found.shape == (4_000, 10) and found.dtype == torch.int64
    assert (found.diff(dim=1) == 7).all()
    places = found[:, 0] // 7
    assert places.min() == 0 and places.max() == 990
    assert places.float().histc(bins=10, min=0, max=991).min() > 300


def test_a_window_may_be_the_whole_text():
    tokens = torch.arange(8)
    assert torch.equal(cut_windows(tokens, 3, 8, seed=0), tokens.expand(3, 8))


def test_consecutive_windows_drop_the_remainder():
    tokens = torch.arange(11)
    assert split_windows(tokens, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_too_few_tokens_are_counted():
    for cut, option in ((lambda t: cut_windows(t, 1, 8, 0), "--length"), (lambda t: split_windows(t, 8), "--context")):
        with pytest.raises(CorpusError) as caught:
            cut(torch.arange(7))
        assert "7 tokens" in caught.value.message and "8" in caught.value.message
        assert f"{option} of at most 7" in caught.value.hint


# File or dataset names


@pytest.mark.parametrize(
    "name",
    ["wikimedia/wikipedia:20231101.en", "org/data.v2", "allenai/c4:en.noblocklist", "org/set:1.0", "org/name"],
)
def test_a_dot_does_not_make_a_dataset_a_file(name, monkeypatch):
    asked = []
    monkeypatch.setattr(corpus, "load_hub_dataset", lambda *what: asked.append(what) or "the river")
    assert not corpus.is_file_name(name)
    assert read_text(name, split="test") == Corpus(f"{name} (test)", "the river")
    assert asked == [(name, "text", "test")]


@pytest.mark.parametrize("name", ["a/b.txt", "./a", "../a", "a/b/c", "/a", "x.JSONL", "a/b:c.parquet", "words", "~x"])
def test_names_that_cannot_be_datasets_are_files(name):
    assert corpus.is_file_name(name)
    refusal(name)


def test_an_existing_file_takes_precedence_over_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").touch()
    assert corpus.is_file_name("org/name")
    assert "unsupported suffix" in refusal("org/name").message


@pytest.mark.parametrize("name", ["auto", "wikitext2", "embedded", "self"])
def test_source_names_are_not_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert not corpus.is_file_name(name)
