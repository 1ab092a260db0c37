"""The Python API: sources, validation of settings, docstrings."""

import inspect
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

import lsprism
from lsprism.engine.plan import prepare_plan
from lsprism.engine.prepare import check_resources
from lsprism.errors import ResourceError, SourceError, SpecError
from lsprism.models.source import resolve
from lsprism.records.model_plan import MemoryEstimate
from lsprism.specs import PlanSpec, validate

pytestmark = pytest.mark.usefixtures("one_thread")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tiny_folder, tmp_path) -> list[dict]:
    """A fake Hub with the tiny model as org/tiny; records the requests."""
    snapshot, asked = shutil.copytree(tiny_folder, tmp_path / COMMIT), []

    def download(repo_id: str, **how) -> str:
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not in the cache")
        asked.append({"repo_id": repo_id, **how})
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return asked


def test_too_little_gpu_memory_is_an_error_before_the_work(tiny_folder, tmp_path, monkeypatch):
    planned = prepare_plan(validate(PlanSpec, model_id=tiny_folder), resolve(str(tiny_folder)))
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (10, 80 * 10**9))
    check_resources(planned, tmp_path)  # on the CPU, GPU memory is not checked
    card = torch.device("cuda", 1)
    with pytest.raises(ResourceError, match="on cuda:1, 0.0 GB are free"):
        check_resources(replace(planned, device=card), tmp_path)
    assert asked == [card]


@pytest.mark.parametrize("name", ["compress", "load", "inspect", "export"])
def test_docstrings_state_results_and_errors(name):
    text = inspect.getdoc(getattr(lsprism, name))
    assert "Raises" in text and "SourceError" in text
    assert "[out, in]" in text or "[rows, columns]" in text or "bytes" in text


def test_a_model_may_be_a_path(tiny_folder, text_file, tmp_path):
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    report = lsprism.compress(tiny_folder, tmp_path / "out", method="wanda", calibration=calibration)
    assert lsprism.load(report.save_path).source.kind == "artifact"
    assert lsprism.inspect(tiny_folder).model_parameters == report.model_parameters
    assert (lsprism.export(report.save_path, tmp_path / "dense") / "model.safetensors.index.json").is_file()


def test_every_function_passes_the_revision_to_the_hub(hub, text_file, tmp_path):
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    report = lsprism.compress("org/tiny", tmp_path / "out", method="wanda", revision="v1", calibration=calibration)
    lsprism.inspect("org/tiny", revision="v1")
    assert lsprism.load("org/tiny", revision="v1").source.revision == COMMIT
    lsprism.export("org/tiny", tmp_path / "dense", revision="v1")
    assert len(hub) >= 4 and {asked["revision"] for asked in hub} == {"v1"}
    assert f'"revision": "{COMMIT}"' in (report.save_path / "lsprism" / "recipe.json").read_text()


def test_a_missing_tokenizer_is_an_error_before_weights_are_downloaded(hub, monkeypatch, tmp_path):
    folder = tmp_path / COMMIT
    for path in (*folder.glob("tokenizer*"), folder / "model.safetensors"):
        path.unlink()
    with pytest.raises(SourceError, match="org/tiny has no tokenizer"):
        lsprism.compress("org/tiny", tmp_path / "out", calibration={"source": "embedded"})
    assert not any("*.safetensors" in asked["allow_patterns"] for asked in hub)


def test_self_generated_text_gives_the_same_bytes_again(tiny_folder, tmp_path):
    def made(name: str, seed: int) -> tuple[bytes, str]:
        calibration = {"source": "self", "samples": 4, "length": 16, "seed": seed}
        report = lsprism.compress(tiny_folder, tmp_path / name, method="sparsegpt", calibration=calibration)
        return b"".join(
            path.read_bytes() for path in sorted(report.save_path.glob("*.safetensors"))
        ), report.calibration

    (first, text), (again, _), (other, _) = made("a", 0), made("b", 0), made("c", 1)
    assert text == "self-generated text"
    assert first == again != other


def test_an_invalid_setting_is_named_as_its_option(tiny_folder, tmp_path):
    for settings in ({"sparsity": 1.5}, {"methud": "wanda"}, {"calibration": {"samples": 0}}):
        with pytest.raises(SpecError, match=r"^--\S+: "):
            lsprism.compress(tiny_folder, tmp_path / "out", **settings)
    assert not Path(tmp_path / "out").exists()


def test_memory_on_the_device_is_the_maximum_of_its_phases():
    counts = {"fixed": 1, "outside": 900, "hidden_states": 50, "block": 20, "statistics": 3, "workspace": 7}
    assert MemoryEstimate(**counts).on_device == 30
    assert MemoryEstimate(**counts, embeddings=400).on_device == 417
    assert MemoryEstimate(**counts, embeddings=400, healing=800).on_device == 800
