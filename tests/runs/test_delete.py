"""Deleting: the folder of the run and, only when its place is named, an artifact elsewhere."""

from pathlib import Path

import pytest
from fake_runs import made

from lsprism.errors import RequestError
from lsprism.runs import RunStore


@pytest.fixture
def runs(tmp_path) -> RunStore:
    return RunStore(tmp_path / "state")


@pytest.fixture
def artifact(tmp_path) -> Path:
    """A finished artifact, and beside it an unfinished one."""
    for name, mark in (("out", "manifest.json"), ("out.part", "recipe.json")):
        (tmp_path / name / "lsprism").mkdir(parents=True)
        (tmp_path / name / "lsprism" / mark).write_text("{}")
    return tmp_path / "out"


def test_an_artifact_elsewhere_stays_unless_it_is_named(runs, artifact):
    runs.delete(made(runs, state="done", artifact=artifact).id)
    assert (artifact / "lsprism" / "manifest.json").is_file()
    assert runs.list_all() == ()
    assert list(runs.folder.iterdir()) == []
    runs.delete(made(runs, state="done", artifact=artifact).id, artifact)
    assert not artifact.exists()
    assert not artifact.with_name("out.part").exists()


def test_what_lies_in_its_own_folder_goes_with_it(runs):
    run = made(runs, state="done")
    (runs.get_folder(run.id) / "artifact").mkdir()
    (runs.get_folder(run.id) / "artifact" / "model.safetensors").write_bytes(b"x")
    runs.delete(run.id)
    assert not runs.get_folder(run.id).exists()


@pytest.mark.parametrize("name", [".", "..", "other", "out.part"])
def test_another_place_than_the_record_names_is_refused(runs, artifact, name):
    run = made(runs, state="done", artifact=artifact)
    with pytest.raises(RequestError, match=f"is at {artifact}, not at"):
        runs.delete(run.id, artifact.parent / name)
    assert artifact.exists()
    assert runs.get(run.id) == run


def test_what_is_no_artifact_is_left_alone(runs, artifact):
    for place in (artifact, artifact.with_name("out.part")):
        next((place / "lsprism").iterdir()).unlink()
    (artifact / "diary.txt").write_text("mine")
    run = made(runs, state="done", artifact=artifact)
    with pytest.raises(RequestError, match="not an artifact of LS-PRISM"):
        runs.delete(run.id, artifact)
    assert (artifact / "diary.txt").exists()


def test_a_live_run_and_the_artifact_of_one_are_refused(runs, artifact):
    writing = made(runs, artifact=artifact)
    with pytest.raises(RequestError, match="is queued. Stop it first"):
        runs.delete(writing.id)
    with pytest.raises(RequestError, match=f"Run {writing.id} is writing"):
        runs.delete(made(runs, state="done", artifact=artifact).id, artifact)
    assert artifact.exists()


def test_a_link_in_a_run_is_removed_and_not_followed(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    run = made(runs, state="done")
    (runs.get_folder(run.id) / "artifact").symlink_to(tmp_path / "mine")
    runs.delete(run.id)
    assert (tmp_path / "mine" / "diary.txt").exists()
