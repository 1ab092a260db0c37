"""The record: whole or as it was, whatever breaks off; damaged ones are shown and break nothing."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_runs import made

from lsprism.errors import DamagedError, DiskError
from lsprism.runs import RunStore, record
from lsprism.runs.record import RECORD, RESERVE, RESERVED_BYTES, read_record, write_record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path) -> RunStore:
    return RunStore(tmp_path / "state")


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_read(runs):
    run = made(runs, state="done", figures={"a.b": 0.5, "none": None}, notes='ü "\n', words=["--x", "1"])
    assert read_record(runs.get_folder(run.id)) == run
    assert RunStore(runs.home).get(run.id) == run


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync"])
def test_a_write_that_breaks_off_leaves_the_record_as_it_was(runs, monkeypatch, broken):
    run = made(runs, state="done")
    monkeypatch.setattr(broken, full)
    with pytest.raises(DiskError, match="No space left"):
        runs.set_notes(run.id, "new")
    monkeypatch.undo()
    assert RunStore(runs.home).get(run.id) == run
    assert [path.name for path in runs.get_folder(run.id).iterdir()] == [RECORD]


def test_a_record_cut_anywhere_is_shown_as_damaged_beside_the_others(runs):
    whole, cut = made(runs, state="done"), made(runs, state="done")
    path = runs.get_folder(cut.id) / RECORD
    content = path.read_bytes()
    for count in range(0, len(content) - 1, 31):
        path.write_bytes(content[:count])
        listed = {run.id: run for run in runs.list_all()}
        assert listed[whole.id] == whole
        assert listed[cut.id].state == "damaged"
        assert str(path) in listed[cut.id].message
    path.write_bytes(content)
    assert runs.get(cut.id) == cut


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff\xfe", b'{"format": 2}', b'{"id": 1}', b"\x00" * 900], ids=repr
)
def test_other_content_is_damaged_too_and_can_be_deleted_but_not_changed(runs, content):
    run = made(runs, state="done")
    (runs.get_folder(run.id) / RECORD).write_bytes(content)
    assert runs.get(run.id).state == "damaged"
    with pytest.raises(DamagedError):
        runs.set_notes(run.id, "new")
    runs.delete(run.id)
    assert runs.list_all() == ()


def test_a_record_that_is_missing_or_of_another_run_is_damaged(runs):
    run = made(runs, state="done")
    other = runs.get_folder("20200101-000000-abcdef")
    shutil.copytree(runs.get_folder(run.id), other)
    assert f"record of another run, {run.id}" in runs.get(other.name).message
    (other / RECORD).unlink()
    assert "cannot be read" in runs.get(other.name).message


def test_on_a_full_disk_the_reserve_makes_room_for_the_end(runs, monkeypatch):
    run = made(runs, state="running")
    folder, replace = runs.get_folder(run.id), record._replace
    assert (folder / RESERVE).stat().st_size == RESERVED_BYTES
    monkeypatch.setattr(record, "_replace", lambda *args: full() if (folder / RESERVE).exists() else replace(*args))
    write_record(folder, run.replace(state="failed", message="the disk is full"))
    assert read_record(folder).message == "the disk is full"
    assert not (folder / RESERVE).exists()


def test_only_a_live_run_holds_a_reserve_and_one_is_no_condition(runs, monkeypatch):
    run = made(runs, state="done")
    assert not (runs.get_folder(run.id) / RESERVE).exists()
    monkeypatch.setattr(Path, "write_bytes", full)
    write_record(runs.get_folder(run.id), run.replace(state="queued"))
    assert read_record(runs.get_folder(run.id)).state == "queued"


def test_a_full_disk_leaves_no_half_made_run(runs, monkeypatch):
    monkeypatch.setattr(record, "_replace", full)
    with pytest.raises(DiskError, match=f"{runs.folder} cannot be written: No space left"):
        made(runs)
    assert list(runs.folder.iterdir()) == []


WRITES = """
import sys
from pathlib import Path
from lsprism.runs.record import read_record, write_record
folder = Path(sys.argv[1])
run, n = read_record(folder), 0
while True:
    write_record(folder, run.but(notes=str(n) * 5000))
    print(n := n + 1, flush=True)
"""


@pytest.mark.slow
def test_killed_while_writing_it_leaves_a_whole_record(runs):
    run = made(runs, state="done")
    for delay in (0.001, 0.002, 0.003, 0.005, 0.008):
        command = [sys.executable, "-c", WRITES, str(runs.get_folder(run.id))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = runs.get(run.id)
        assert found.state == "done"
        assert set(found.notes) <= set("0123456789")
