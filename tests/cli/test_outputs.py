"""What is said reaches any output: in latin-1 and ASCII, with names that are no UTF-8."""

import json
import shutil
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from lsprism.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def foreign(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model with a vocabulary of other scripts."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("foreign") / "é河")
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {f"河{word}" if n > 2 else word: n for word, n in words.items()}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return folder


@pytest.fixture
def said(monkeypatch):
    """Run one command with outputs in `encoding`; returns its code and the bytes of both."""

    def run(encoding: str, *words: str) -> tuple[int, bytes, bytes]:
        streams = {name: BytesIO() for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, TextIOWrapper(stream, encoding=encoding, write_through=True))
        code = main(list(words))
        return code, streams["stdout"].getvalue(), streams["stderr"].getvalue()

    return run


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "utf-16", "cp1252"])
def test_an_answer_is_printed_in_any_encoding(foreign, said, encoding):
    words = ["generate", "--model-id", str(foreign), "--prompt", "河the", "--max-new-tokens", "2", "--greedy"]
    code, plain, _ = said(encoding, *words)
    assert code == 0
    shown = plain.decode(encoding)
    assert "河" in shown if encoding.startswith("utf") else "\\u6cb3" in shown
    code, document, _ = said(encoding, *words, "--json")
    assert code == 0
    assert "河" in json.loads(document.decode(encoding))["text"]


def test_a_report_is_json_in_any_encoding(foreign, said):
    code, document, _ = said("ascii", "inspect", "--model-id", str(foreign), "--json")
    assert code == 0
    assert json.loads(document)["source"]["model_id"] == str(foreign)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_tables_and_refusals_are_printed_in_any_encoding(foreign, said, encoding):
    assert said(encoding, "inspect", "--model-id", str(foreign))[0] == 0
    code, out, _ = said(encoding, "inspect", "--model-id", f"{foreign}—")
    assert (code, out) == (2, b"")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_no_utf_8_are_refused_in_a_sentence(said, encoding):
    for words in (["compare", "\udcff.json"], ["inspect", "--model-id", "\udcff"], ["inspect", "--config", "\udcff"]):
        assert said(encoding, *words)[0] == 2
