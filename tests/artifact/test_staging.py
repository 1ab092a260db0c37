"""The folder of an unfinished run: exclusive, atomic, and other people's folders are never touched."""

import json
import os

import pytest
import torch

from lsprism.artifact.manifest import MANIFEST, RECIPE, verify, write_json
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.staging import STREAM, Checkpoint, Staging, open_staging
from lsprism.artifact.target import (
    check_target,
    count_partial_bytes,
    exclusive_lock,
    find_recipe_differences,
    get_sibling,
    load_finished_report,
)
from lsprism.errors import DiskError, TargetError
from lsprism.records.compression import CompressionReport, LayerReport

RECIPE_A = {"sparsity": 0.5, "calibration": {"source": "auto", "seed": 0}, "calibration_sha256": "a1"}
LAYER = LayerReport(
    name="l", block=0, rows=2, columns=3, form="sparse", kept=3, rank=0, stored_bytes=8, dense_bytes=12, error=0.25
)


def begun(target, recipe=RECIPE_A, **how):
    return open_staging(target, Recipe(recipe), **{"resume": False, "force": False, **how})


def publish(target, content: str = "first", **how) -> None:
    with begun(target, **how) as stage:
        (stage.folder / "file").write_text(content)
        stage.publish()


@pytest.fixture
def checkpoint() -> Checkpoint:
    hidden = [torch.arange(6, dtype=torch.bfloat16).view(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bfloat16)]
    return Checkpoint(3, hidden, [LAYER, LAYER], 12.5)


def test_a_checkpoint_is_read_back_unchanged(tmp_path, checkpoint):
    stage = Staging(tmp_path / "out", tmp_path)
    assert not stage.begun
    assert stage.read_checkpoint() is None
    stage.write_checkpoint(checkpoint)
    back = stage.read_checkpoint()
    assert stage.begun
    assert (back.next_block, back.layers, back.seconds) == (3, [LAYER, LAYER], 12.5)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back.hidden, checkpoint.hidden, strict=True))


def test_hidden_states_are_read_back_in_batch_order(tmp_path):
    stage = Staging(tmp_path / "out", tmp_path)
    stage.write_checkpoint(Checkpoint(0, [torch.full((1,), n) for n in range(12)], [], 0.0))
    assert [part.item() for part in stage.read_checkpoint().hidden] == list(range(12))


@pytest.mark.parametrize("cut", [0, 1, 7, 100, -1])
def test_a_truncated_checkpoint_is_ignored(tmp_path, checkpoint, cut):
    stage = Staging(tmp_path / "out", tmp_path)
    stage.write_checkpoint(checkpoint)
    path = tmp_path / STREAM
    path.write_bytes(path.read_bytes()[:cut])
    assert stage.read_checkpoint() is None
    assert stage.begun


def test_a_published_artifact_is_valid_and_has_no_checkpoint(tmp_path, checkpoint):
    with begun(tmp_path / "out") as stage:
        stage.write_checkpoint(checkpoint)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.lock", "out.part"]
        stage.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert set(verify(tmp_path / "out").files) == {RECIPE}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lsprism"}


def test_a_failed_rename_keeps_the_checkpoint(tmp_path, checkpoint, monkeypatch):
    with begun(tmp_path / "out") as stage:
        stage.write_checkpoint(checkpoint)

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(DiskError, match="Permission denied"):
            stage.publish()
    monkeypatch.undo()
    with begun(tmp_path / "out", resume=True) as stage:
        assert stage.read_checkpoint().next_block == 3
        stage.publish()
    verify(tmp_path / "out")


def test_an_artifact_is_replaced_only_with_force(tmp_path):
    publish(tmp_path / "out")
    with pytest.raises(TargetError, match="already holds an artifact"):
        publish(tmp_path / "out", "second")
    assert (tmp_path / "out" / "file").read_text() == "first"
    publish(tmp_path / "out", "second", force=True)
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_recovers_from_a_kill_between_the_two_renames(tmp_path):
    publish(tmp_path / "out")
    with begun(tmp_path / "out", force=True) as stage:
        (stage.folder / "file").write_text("second")
        os.replace(tmp_path / "out", tmp_path / "out.replaced")
    with begun(tmp_path / "out", resume=True) as stage:
        stage.publish()
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_folder_is_an_error_even_with_force(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    for how in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(TargetError, match="is not an artifact of LS-PRISM"), begun(tmp_path / "out", **how):
            pass
        with pytest.raises(TargetError, match="is not an artifact of LS-PRISM"):
            check_target(tmp_path / "out", **{"resume": False, "force": False, **how})
    assert (tmp_path / "out" / "diary.txt").read_text() == "mine"


def test_another_part_folder_is_an_error_even_with_force(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "diary.txt").write_text("mine")
    for how in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(TargetError, match="is not an unfinished run"), begun(tmp_path / "out", **how):
            pass
    assert (tmp_path / "out.part" / "diary.txt").read_text() == "mine"


def test_another_replaced_folder_is_not_touched(tmp_path):
    publish(tmp_path / "out")
    (tmp_path / "out.replaced").mkdir()
    with pytest.raises(TargetError, match="out.replaced exists"):
        publish(tmp_path / "out", "second", force=True)
    assert (tmp_path / "out.replaced").is_dir()


def test_a_broken_link_is_not_overwritten(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetError, match="is not an artifact"):
        check_target(tmp_path / "out", resume=False, force=True)


def test_force_deletes_the_run_of_another_recipe(tmp_path, checkpoint):
    with begun(tmp_path / "out") as stage:
        stage.write_checkpoint(checkpoint)
        (stage.folder / "sub").mkdir()
        (stage.folder / "sub" / "model-00001-of-00009.safetensors").touch()
    with begun(tmp_path / "out", {**RECIPE_A, "sparsity": 0.3}, force=True) as stage:
        assert {path.name for path in stage.folder.iterdir()} == {"lsprism"}
        assert json.loads((stage.folder / RECIPE).read_text())["sparsity"] == 0.3


def test_resume_with_force_continues_the_same_recipe_and_restarts_another(tmp_path, checkpoint):
    with begun(tmp_path / "out") as stage:
        stage.write_checkpoint(checkpoint)
    with begun(tmp_path / "out", resume=True, force=True) as stage:
        assert stage.read_checkpoint().next_block == 3
    with begun(tmp_path / "out", {**RECIPE_A, "sparsity": 0.3}, resume=True, force=True) as stage:
        assert stage.read_checkpoint() is None


def test_a_malformed_recipe_counts_as_different(tmp_path):
    with begun(tmp_path / "out") as stage:
        (stage.folder / RECIPE).write_text("{")
    with pytest.raises(TargetError, match="unreadable recipe"), begun(tmp_path / "out", resume=True):
        pass
    with begun(tmp_path / "out", force=True) as stage:
        assert json.loads((stage.folder / RECIPE).read_text()) == RECIPE_A


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (RECIPE_A, []),
        ({**RECIPE_A, "sparsity": 0.3}, ["sparsity 0.5, not 0.3"]),
        ({**RECIPE_A, "calibration": {"source": "x.txt", "seed": 0}}, ["calibration auto, not x.txt"]),
        (
            {**RECIPE_A, "calibration": {"source": "auto", "seed": 1}, "calibration_sha256": "b2"},
            ["seed 0, not 1"],  # the reason why the tokens differ
        ),
        ({**RECIPE_A, "calibration_sha256": "b2"}, ["other calibration data"]),
        ({**RECIPE_A, "effort": "best"}, ["effort None, not best"]),
    ],
)
def test_settings_that_differ_are_named_as_options(tmp_path, now, expected):
    write_json(tmp_path / RECIPE, RECIPE_A)
    assert find_recipe_differences(tmp_path, Recipe(now)) == expected


def test_a_target_below_a_file_or_a_read_only_folder_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for below in ("file/out", "file/a/b/out"):
        with pytest.raises(TargetError, match="is a file"):
            check_target(tmp_path / below, resume=False, force=False)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(TargetError, match="is not writable"):
        check_target(tmp_path / "a" / "out", resume=False, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_current_folder_can_be_a_target(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert get_sibling(os.curdir, ".part") == tmp_path / "here.part"


def test_the_lock_is_exclusive_and_removed_afterwards(tmp_path):
    with exclusive_lock(tmp_path / "a" / "out"):
        with pytest.raises(TargetError, match="Another run is writing"), exclusive_lock(tmp_path / "a" / "out"):
            pass
        with pytest.raises(TargetError, match="Another run is writing"):
            check_target(tmp_path / "a" / "out", resume=False, force=False)
    with exclusive_lock(tmp_path / "a" / "out"):
        pass
    assert list((tmp_path / "a").iterdir()) == []


def test_a_lock_file_without_a_holder_is_ignored(tmp_path):
    (tmp_path / "out.lock").touch()
    check_target(tmp_path / "out", resume=False, force=False)
    with exclusive_lock(tmp_path / "out"):
        pass
    assert not (tmp_path / "out.lock").exists()


def test_staged_bytes_count_the_unfinished_run(tmp_path):
    assert count_partial_bytes(tmp_path / "out") == 0
    (tmp_path / "out.part" / "lsprism").mkdir(parents=True)
    (tmp_path / "out.part" / "a").write_bytes(bytes(10))
    (tmp_path / "out.part" / "lsprism" / "b").write_bytes(bytes(5))
    assert count_partial_bytes(tmp_path / "out") == 15


def test_a_finished_report_has_the_current_path(tmp_path):
    report = CompressionReport(
        save_path="elsewhere",
        model_id="m",
        method="wanda",
        sparsity=0.5,
        layers=[LAYER],
        model_parameters=6,
        kept_parameters=3,
        stored_bytes=8,
        dense_stored_bytes=12,
        seconds=1,
        peak_memory_bytes=0,
        calibration="text",
        device="cpu",
        dtype="bfloat16",
    )
    assert load_finished_report(tmp_path / "out", Recipe(RECIPE_A), force=False) is None
    with begun(tmp_path / "out") as stage:
        write_json(stage.folder / "lsprism/report.json", report)
        stage.publish()
    assert (tmp_path / "out" / MANIFEST).is_file()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert load_finished_report(moved, Recipe(RECIPE_A), force=False) == report.model_copy(update={"save_path": moved})
    other = Recipe({**RECIPE_A, "sparsity": 0.3})
    with pytest.raises(TargetError, match="made with different settings: sparsity 0.5, not 0.3"):
        load_finished_report(moved, other, force=False)
    assert load_finished_report(moved, other, force=True) is None
