"""Paths given by users, and paths that cannot be written."""

import os
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from lsprism.errors import SpecError, TargetError
from lsprism.paths import ASSETS, cache_folder, check_writable, expand, find_existing, get_sibling, traits_folder
from lsprism.specs import CompressSpec, EvaluateSpec, SpectraSpec, SweepSpec, validate

HINT = "Choose another."


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert expand("~/x") == Path("/home/ann/x")
    assert expand("~") == Path("/home/ann")
    assert expand("a/~") == Path("a/~")


def test_the_tilde_of_an_unknown_user_is_kept():
    assert expand("~no-such-user/x") == Path("~no-such-user/x")


@pytest.mark.parametrize("kind", [CompressSpec, EvaluateSpec, SweepSpec, SpectraSpec])
def test_every_save_path_expands_the_home_folder(kind, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert validate(kind, model_id="m", save_path="~/out").save_path == Path("/home/ann/out")
    with pytest.raises(SpecError, match="--save-path: a path must be UTF-8"):
        validate(kind, model_id="m", save_path="out\udcff")
    with pytest.raises(SpecError, match="without null characters"):
        validate(kind, model_id="m", save_path=Path("o\0ut"))


def test_a_writable_path_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "a" / "b" / "out", HINT)
    check_writable(tmp_path, HINT)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_tried_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("a/out"), HINT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 300, "n" * 252, f"{'n' * 300}/out", "file/out", "o\0ut"])
def test_an_unwritable_path_is_an_error_and_leaves_no_trace(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match=r"cannot be written: .+\.") as refusal:
        check_writable(tmp_path / "new" / ".." / name if "/" in name else tmp_path / name, HINT)
    assert refusal.value.hint == HINT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that takes no folders")
def test_a_file_system_without_folders_is_an_error():
    with pytest.raises(TargetError):
        check_writable(Path("/proc/out"), HINT)


def test_the_nearest_folder_that_exists():
    assert find_existing(Path("/no-such/" + "n" * 300)) == Path("/")


def test_beside_resolves_links(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "out")
    assert get_sibling(tmp_path / "link", ".part") == (tmp_path / "there").resolve() / "out.part"
    assert get_sibling(Path("/"), ".part") == Path("/.part")


def test_one_variable_moves_the_cache(monkeypatch):
    for name in ("LSPRISM_CACHE", "LSPRISM_HOME", "LSPRISM_TRAITS"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == user_cache_path("lsprism")
    monkeypatch.setenv("LSPRISM_HOME", "~/all")
    assert cache_folder() == expand("~/all") / "cache"
    monkeypatch.setenv("LSPRISM_CACHE", "~/cache")
    assert cache_folder() == expand("~/cache")
    assert traits_folder() == expand("~/cache/traits")
    monkeypatch.setenv("LSPRISM_TRAITS", "/traits")
    assert (cache_folder(), traits_folder()) == (expand("~/cache"), Path("/traits"))


def test_everything_cached_is_in_the_cache():
    """Compiled kernels, choices and models alike."""
    from lsprism.models import demo, gguf
    from lsprism.packed import compute_dtype
    from lsprism.packed.kernels import autotune, build

    assert all(module.cache_folder is cache_folder for module in (compute_dtype, build, autotune, demo, gguf))


def test_assets_are_found_in_the_checkout():
    assert ASSETS.samefile(Path(__file__).parents[1] / "assets")
    assert (ASSETS / "calibration.txt").is_file()
