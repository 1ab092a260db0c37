"""The base model of an artifact is found again, and a local one is never looked up on the Hub."""

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from lsprism import evaluation_api
from lsprism.artifact.manifest import MANIFEST, RECIPE
from lsprism.artifact.recipe import Recipe
from lsprism.cli import main
from lsprism.errors import SourceError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def download(repo_id: str, **_):
        raise AssertionError(f"the hub was asked for {repo_id}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.fixture
def artifact(tiny_folder, text_file, tmp_path, monkeypatch) -> Path:
    """Made from models/tiny with work/ as the current folder, which is another one now."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tiny_folder, tmp_path / "work" / "models" / "tiny")
    monkeypatch.chdir(tmp_path / "work")
    least = ["--method", "wanda", "--calibration", str(text_file), "--samples", "2", "--length", "16"]
    assert main(["compress", "--model-id", "models/tiny", "--save-path", "out", *least]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "work" / "out"


def evaluate(artifact: Path, capsys) -> tuple[dict, str]:
    assert main(["evaluate", "--model-id", str(artifact), "--measures", "sizes", "--json", "--force"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out[said.out.index("\n{") if "\n{" in said.out else said.out.index("{") :]), said.err


def change_recipe(artifact: Path, **changes) -> None:
    """Change the recipe to that of an earlier version; None removes an entry."""
    path, manifest = artifact / RECIPE, json.loads((artifact / MANIFEST).read_text())
    recipe = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in recipe.items() if value is not None}))
    entry = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["files"][RECIPE] = entry
    (artifact / MANIFEST).write_text(json.dumps(manifest))


def test_a_relative_base_model_is_found_from_another_folder(artifact, capsys):
    capsys.readouterr()
    report, _ = evaluate(artifact, capsys)
    assert report["baseline"]["model"]["model_id"] == str(artifact.parent / "models" / "tiny")


def test_in_the_original_folder_it_keeps_its_name(artifact, monkeypatch, capsys):
    monkeypatch.chdir(artifact.parent)
    capsys.readouterr()
    report, _ = evaluate(artifact, capsys)
    assert report["baseline"]["model"]["model_id"] == "models/tiny"


def test_a_missing_base_model_is_reported_with_its_path(artifact, capsys):
    shutil.rmtree(artifact.parent / "models")
    capsys.readouterr()
    report, said = evaluate(artifact, capsys)
    assert report["baseline"] is None
    assert f"The base model was not found at {artifact.parent / 'models' / 'tiny'}." in said
    assert main(["spectra", "--model-id", str(artifact)]) == 2


def test_an_older_recipe_is_relative_to_the_current_folder(artifact, monkeypatch, capsys):
    change_recipe(artifact, base_path=None)
    capsys.readouterr()
    report, said = evaluate(artifact, capsys)
    assert report["baseline"] is None and "not found at models/tiny" in said
    monkeypatch.chdir(artifact.parent)
    assert evaluate(artifact, capsys)[0]["baseline"]["model"]["model_id"] == "models/tiny"


def test_an_older_recipe_resumes_as_before(artifact, text_file, monkeypatch, capsys):
    change_recipe(artifact, base_path=None)
    monkeypatch.chdir(artifact.parent)
    least = ["--method", "wanda", "--calibration", str(text_file), "--samples", "2", "--length", "16"]
    assert main(["compress", "--model-id", "models/tiny", "--save-path", "out", "--resume", *least]) == 0
    assert "already complete" in capsys.readouterr().err


def test_a_base_model_of_the_hub_is_looked_up_there(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluation_api, "resolve", lambda *what: asked.append(what))
    evaluation_api._read_base(Recipe({"model_id": "org/tiny", "base_model": "org/tiny", "revision": "0123"}))
    evaluation_api._read_base(Recipe({"model_id": "demo", "base_model": "org/demo"}))
    assert asked == [("org/tiny", "0123"), ("demo", "")]


def test_a_recipe_without_a_model_is_an_error():
    with pytest.raises(SourceError):
        evaluation_api._read_base(Recipe({}))
