"""Safetensors files: exact size prediction, grouping by size, atomic writes."""

import errno
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lsprism.artifact import shards
from lsprism.artifact.shards import (
    OUTSIDE_SHARD_BYTES,
    compute_file_bytes,
    is_whole,
    split_outside,
    translate_disk_errors,
    write_shard,
)
from lsprism.errors import DiskError

dtypes = st.sampled_from([torch.int64, torch.float32, torch.bfloat16, torch.float16, torch.uint8])
shapes = st.lists(st.integers(1, 40), max_size=2).map(tuple)
layouts = st.dictionaries(st.text("abcxyz._019é", min_size=1, max_size=40), st.tuples(dtypes, shapes), min_size=1)


def tensors_of(layout: shards.Layout) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_the_size_of_a_file_is_predicted_exactly(tmp_path_factory, layout):
    path = tmp_path_factory.getbasetemp() / "predicted.safetensors"
    write_shard(path, tensors_of(layout))
    assert path.stat().st_size == compute_file_bytes(layout)


def test_groups_keep_the_order_and_hold_at_most_the_limit_or_one_tensor():
    third = (torch.uint8, (OUTSIDE_SHARD_BYTES // 3,))
    large = (torch.uint8, (OUTSIDE_SHARD_BYTES + 1,))
    layout = {"a": third, "b": third, "c": third, "d": third, "e": large, "f": third}
    assert [list(group) for group in split_outside(layout)] == [["a", "b", "c"], ["d"], ["e"], ["f"]]
    assert split_outside({}) == []


def test_tensors_and_metadata_are_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_shard(path, {"x": torch.arange(5)}, {"note": "kept"})
    assert torch.equal(load_file(path)["x"], torch.arange(5))
    with shards.safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "note": "kept"}


@pytest.mark.parametrize("step", ["save_file", "os.replace"])
def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.safetensors"
    write_shard(path, {"x": torch.zeros(3)})

    def half_written(_tensors, target, **_):
        target.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    fake = half_written if step == "save_file" else Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(f"lsprism.artifact.shards.{step}", fake)
    with pytest.raises(DiskError, match="the disk is full"):
        write_shard(path, {"x": torch.ones(3)})
    assert torch.equal(load_file(path)["x"], torch.zeros(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", "Free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full", "Free some space"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full", "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", "permissions"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error", "disk"),
    ],
)
def test_failed_writes_have_a_reason_and_a_next_step(tmp_path, error, reason, remedy):
    with pytest.raises(DiskError) as caught, translate_disk_errors(tmp_path / "x"):
        raise error
    assert caught.value.message == f"{tmp_path / 'x'} cannot be written: {reason}."
    assert remedy in caught.value.hint


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(ValueError, match="^mine$"), translate_disk_errors(tmp_path):
        raise ValueError("mine")


def test_a_file_is_complete_only_with_all_bytes_and_tensors(tmp_path):
    layout = {"x": (torch.float32, (4, 3)), "y": (torch.uint8, (5,))}
    path = tmp_path / "a.safetensors"
    assert not is_whole(path, layout)
    write_shard(path, tensors_of(layout))
    assert is_whole(path, layout)
    assert not is_whole(path, {"x": layout["x"]})
    assert not is_whole(path, {**layout, "z": layout["y"]})
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"\0", b"\xff" * len(content), b""):
        path.write_bytes(wrong)
        assert not is_whole(path, layout)


def test_a_file_without_tensors_can_be_complete(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    assert is_whole(tmp_path / "empty.safetensors", {})
