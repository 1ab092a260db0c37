"""A missing tokenizer, package or class is reported before any work."""

import json
import shutil
from pathlib import Path

import pytest

import lsprism
from lsprism.errors import SourceError
from lsprism.models import tokenizer_files
from lsprism.models.source import resolve


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """The tiny model without a tokenizer.json."""
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    (copy / "tokenizer.json").unlink()
    return copy


def configure(folder: Path, **changes) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        resolve(str(folder))
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message and caught.value.hint
    with pytest.raises(SourceError, match="tokenizer"):  # and so before a compression
        lsprism.compress(folder, folder.parent / "out", calibration={"source": "embedded"})
    assert not (folder.parent / "out.part").exists()
    assert str(caught.value) in lsprism.inspect(folder).notes
    return caught.value


@pytest.mark.parametrize(
    ("file", "package"),
    [("tokenizer.model", "sentencepiece"), ("spiece.model", "sentencepiece"), ("a.tiktoken", "tiktoken")],
)
def test_a_package_that_is_missing_is_named(folder, monkeypatch, file, package):
    (folder / file).write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    monkeypatch.setattr(tokenizer_files.importlib.util, "find_spec", lambda name: None)
    error = refused(folder)
    assert file in error.message and package in error.message and f"pip install {package}" in error.hint


def test_a_tokenizer_json_needs_no_package(tiny_folder, folder, monkeypatch):
    shutil.copy(tiny_folder / "tokenizer.json", folder)
    (folder / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr(tokenizer_files.importlib.util, "find_spec", lambda name: None)
    assert resolve(str(folder)).folder == folder


@pytest.mark.parametrize(
    "code", [["tok.TikTokenTokenizer", None], [None, "tok.TikTokenTokenizer"], "tok.TikTokenTokenizer"]
)
def test_remote_code_is_reported_and_never_run(folder, code):
    (folder / "tok.py").write_text("raise SystemExit('ran')")
    (folder / "vocab.tiktoken").write_text("YQ== 0\n")
    configure(folder, tokenizer_class="TikTokenTokenizer", auto_map={"AutoTokenizer": code})
    assert "tok.TikTokenTokenizer" in refused(folder).message


def test_a_git_lfs_pointer_is_reported(folder):
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{folder / 'tokenizer.json'} is only a Git LFS pointer" in refused(folder).message


@pytest.mark.parametrize(("name", "value"), [("auto_map", []), ("tokenizer_class", 7)])
def test_an_entry_of_the_wrong_shape_is_named(folder, name, value):
    configure(folder, **{name: value})
    assert f"tokenizer_config.json: {name} is {value}" in refused(folder).message
