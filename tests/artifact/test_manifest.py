"""Files on disk match report and manifest; any difference is an error that names the file."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

import lsprism
from lsprism.artifact.manifest import MANIFEST, REPORT, build_manifest, verify
from lsprism.errors import DamagedError, LSPrismError
from lsprism.records.compression import CompressionReport
from lsprism.records.model_plan import Plan


@pytest.fixture(scope="module")
def made(tiny_folder, text_file, tmp_path_factory) -> tuple[Plan, CompressionReport]:
    settings = {"method": "hybrid", "calibration": {"source": str(text_file), "samples": 8, "length": 32}}
    report = lsprism.compress(str(tiny_folder), tmp_path_factory.mktemp("made") / "out", **settings)
    return lsprism.inspect(str(tiny_folder), **settings), report  # with the budgets of the run


@pytest.fixture
def artifact(made, tmp_path) -> Path:
    """A copy to modify."""
    return Path(shutil.copytree(made[1].save_path, tmp_path / "artifact"))


def refused(folder: Path) -> LSPrismError:
    with pytest.raises(LSPrismError) as caught:
        lsprism.load(str(folder))
    assert caught.value.hint and caught.value.message.endswith(".") and "\n" not in caught.value.message
    return caught.value


def edit_manifest(folder: Path, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


# Sizes


def test_report_and_plan_count_what_is_on_disk(made):
    plan, report = made
    files = sorted(report.save_path.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) == report.stored_bytes == plan.stored_bytes
    sizes: dict[str, int] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dict
                owner = key.rpartition(".")[0]
                sizes[owner] = sizes.get(owner, 0) + opened.get_tensor(key).nbytes
    assert {layer.name: layer.stored_bytes for layer in report.layers} == {
        layer.name: sizes[layer.name] for layer in report.layers
    }
    assert [p.stored_bytes for p in plan.sites] == [layer.stored_bytes for layer in report.layers]
    assert report.kept_parameters == plan.kept_parameters
    assert report.layer_stored_bytes <= 0.57 * report.layer_dense_bytes


def test_the_dense_size_is_that_of_the_source(made, tiny_folder):
    tensors = sum(p.stat().st_size for p in tiny_folder.glob("*.safetensors"))
    assert abs(made[1].dense_stored_bytes - tensors) < 4096, "except for the file headers"


def test_the_report_on_disk_is_the_report(made):
    report = made[1]
    stored = CompressionReport.model_validate_json((report.save_path / REPORT).read_text())
    assert stored.model_copy(update={"save_path": report.save_path}) == report


# Files


def test_one_file_per_block_and_one_index_of_all(made):
    folder = made[1].save_path
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {path.name for path in folder.glob("*.safetensors")}
    for block in range(2):
        assert len({file for key, file in index.items() if key.startswith(f"model.layers.{block}.")}) == 1
    assert len(set(index.values())) == 3


def test_safetensors_json_and_text_only(made):
    folder = made[1].save_path
    for path in (path for path in folder.rglob("*") if path.is_file()):
        match path.suffix:
            case ".safetensors":
                with safe_open(path, framework="pt") as opened:
                    assert opened.keys()
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case suffix:
                assert suffix in (".md", ".jinja") and path.read_text(encoding="utf-8")


def test_file_permissions_follow_the_umask(tiny_folder, text_file, tmp_path):
    settings = {"method": "wanda", "calibration": {"source": str(text_file), "samples": 2, "length": 16}}
    old = os.umask(0o027)
    try:
        lsprism.compress(str(tiny_folder), tmp_path / "out", **settings)
        lsprism.export(str(tmp_path / "out"), tmp_path / "dense")
    finally:
        os.umask(old)
    for folder in (tmp_path / "out", tmp_path / "dense"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert set(modes.values()) == {0o640}, modes


def test_the_notes_have_no_local_paths(made, tmp_path_factory):
    """Plan and report are shared with the artifact; only the recipe has --model-id as given by the user."""
    home = str(made[1].save_path.parent)
    for path in made[1].save_path.rglob("*.*"):
        if path.is_file():
            assert home.encode() not in path.read_bytes(), path
    assert made[0].source.folder.is_absolute()
    plan = json.loads((made[1].save_path / "lsprism" / "plan.json").read_text())
    assert not Path(plan["source"]["folder"]).is_absolute()


# Damage


def test_an_intact_artifact_is_verified_in_any_folder(artifact):
    assert verify(artifact) == build_manifest(artifact)
    (artifact / "my notes.txt").write_text("unknown files are ignored")
    (artifact / ".gitattributes").write_text("the hub adds this one")
    verify(artifact)
    assert lsprism.load(str(artifact)).source.kind == "artifact"


def test_one_flipped_byte_in_any_file_is_named(artifact):
    names = [path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()]
    assert len(names) > 10
    for name in names:
        path = artifact / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(DamagedError) as caught:
            verify(artifact)
        assert str(path) in str(caught.value) or name == MANIFEST  # the flip may change a file name in the manifest
        path.write_bytes(whole)
    verify(artifact)


@pytest.mark.parametrize(
    "name", ["model-00002-of-00003.safetensors", "config.json", "tokenizer.json", "lsprism/recipe.json", MANIFEST]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_truncated_or_missing_file_is_named(artifact, name, damage):
    path = artifact / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    assert Path(name).name in str(refused(artifact))


def test_an_edited_config_is_named(artifact):
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    for change in ({"rms_norm_eps": 1e-5}, {"quantization_config": None}, {"quantization_config": {}}):
        path.write_text(json.dumps(config | change))
        assert "config.json" in str(refused(artifact)), change
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    assert "config.json" in str(refused(artifact)), "it would be loaded as a plain model"


@pytest.mark.parametrize("number, said", [(2, "newer"), (0, "0 is not"), (None, "None"), ("1", "'1'"), (True, "True")])
def test_another_format(artifact, number, said):
    edit_manifest(artifact, lambda manifest: manifest.update(format=number))
    error = refused(artifact)
    assert "manifest.json" in error.message and said in error.message
    assert (number == 2) == ("Update" in error.hint)


def test_a_newer_format_may_have_another_structure(artifact):
    (artifact / MANIFEST).write_text('{"format": 7, "trees": ["elm", "ash"]}')
    assert "format 7 is newer" in refused(artifact).message


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', '{"format": 1, "files": {"a": 3}}', "\udcff"])
def test_a_malformed_manifest(artifact, content):
    (artifact / MANIFEST).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "manifest.json" in refused(artifact).message


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a/../../outside", "C:/x", "..\\outside", "", "C:x"])
def test_a_manifest_must_not_point_outside(artifact, name):
    (artifact.parent / "outside").write_text("x")
    edit_manifest(artifact, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    error = refused(artifact)
    assert "manifest.json" in error.message and repr(name) in error.message
