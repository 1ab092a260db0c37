"""A target that is a symbolic link: its destination is replaced, and the link is kept."""

import os
import shutil
from pathlib import Path

import pytest

from lsprism.artifact import staging as staging_room
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.staging import open_staging
from lsprism.artifact.target import check_target
from lsprism.errors import DiskError, TargetError

RECIPE = Recipe({"sparsity": 0.5})


def publish(target: Path, content: str, *, force: bool = False) -> None:
    check_target(target, resume=False, force=force)
    with open_staging(target, RECIPE, resume=False, force=force) as stage:
        (stage.folder / "file").write_text(content)
        stage.publish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def linked(tmp_path) -> Path:
    """A symbolic link in here/ to an artifact in there/."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    publish(tmp_path / "there" / "out", "first")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "out")
    return tmp_path / "here" / "link"


def test_the_artifact_is_replaced_and_the_link_is_kept(linked):
    publish(linked, "second", force=True)
    assert linked.is_symlink()
    assert (linked / "file").read_text() == "second"
    assert names(linked.parent) == ["link"]
    assert names(linked.parent.parent / "there") == ["out"]


def test_a_link_to_a_link_is_kept(linked, tmp_path):
    (tmp_path / "chain").symlink_to("here/link")
    publish(tmp_path / "chain", "second", force=True)
    assert (tmp_path / "chain").is_symlink() and linked.is_symlink()
    assert (tmp_path / "there" / "out" / "file").read_text() == "second"


def test_a_link_below_a_link_works_without_force(linked, tmp_path):
    (tmp_path / "folder").symlink_to("there")
    publish(tmp_path / "folder" / "new", "first")
    assert names(tmp_path / "there") == ["new", "out"]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs another file system")
def test_a_link_to_another_file_system_works(tmp_path):
    there = Path("/dev/shm") / f"lsprism-{os.getpid()}"
    there.mkdir()
    try:
        if there.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("one file system")
        (tmp_path / "link").symlink_to(there / "out")
        publish(there / "out", "first")
        publish(tmp_path / "link", "second", force=True)
        assert (there / "out" / "file").read_text() == "second"
        assert names(there) == ["out"] and names(tmp_path) == ["link"]
    finally:
        shutil.rmtree(there)


@pytest.mark.parametrize("leads_to", ["nowhere", "file", "folder", "link"])
def test_a_link_to_another_folder_is_an_error(tmp_path, leads_to):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(leads_to)
    before = names(tmp_path)
    with pytest.raises(TargetError, match="link exists and is not an artifact"):
        publish(tmp_path / "link", "first", force=True)
    assert names(tmp_path) == before


def test_a_mount_point_is_an_error(linked, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with pytest.raises(TargetError, match="is a mount point and cannot be replaced"):
        publish(linked, "second", force=True)


def test_another_part_folder_is_an_error(tmp_path):
    (tmp_path / "out.part").mkdir()
    check_target(tmp_path / "out", resume=False, force=False)  # empty, as a kill may leave it
    (tmp_path / "out.part" / "diary").touch()
    with pytest.raises(TargetError, match="out.part exists and is not an unfinished run"):
        check_target(tmp_path / "out", resume=True, force=True)


def test_the_old_artifact_is_restored_if_the_new_one_cannot_be_moved(linked, monkeypatch):
    real = os.replace

    def replace(source, target):
        if Path(source).name == "out.part":
            raise OSError(16, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(staging_room.os, "replace", replace)
    with pytest.raises(DiskError, match="busy"):
        publish(linked, "second", force=True)
    assert (linked / "file").read_text() == "first"
    assert names(linked.parent.parent / "there") == ["out", "out.part"]  # which --resume continues


def test_a_failed_cleanup_afterwards_is_ignored(linked, monkeypatch):
    def unlink(path, missing_ok=False):
        if path.name == staging_room.STREAM:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", unlink)
    with open_staging(linked, RECIPE, resume=False, force=True) as stage:
        (stage.folder / "file").write_text("second")
        stage.publish()
    assert (linked / "file").read_text() == "second"
