"""The list of runs: what is there, in which state, at no cost while nothing changes."""

import os
import time

import pytest
from fake_runs import NOBODY, made

from lsprism.errors import DiskError, LSPrismError, RequestError
from lsprism.events import Progress
from lsprism.runs import RunStore, get_state_folder
from lsprism.runs import store as module
from lsprism.runs.event_log import EventLog
from lsprism.runs.process import ProcessId, get_process


@pytest.fixture
def runs(tmp_path) -> RunStore:
    return RunStore(tmp_path / "state")


def test_the_state_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LSPRISM_STATE", str(tmp_path / "own"))
    assert get_state_folder() == tmp_path / "own" == RunStore().home
    monkeypatch.delenv("LSPRISM_STATE")
    assert get_state_folder() == tmp_path / "home" / "state"
    monkeypatch.delenv("LSPRISM_HOME")
    assert get_state_folder().name == "lsprism"
    assert RunStore("/elsewhere").folder.as_posix() == "/elsewhere/runs"


def test_where_nothing_was_started_there_is_nothing_and_nothing_is_made(runs):
    assert runs.list_all() == ()
    with pytest.raises(RequestError, match="does not exist"):
        runs.set_notes("20260101-000000-abcdef", "x")
    assert not runs.home.exists()


def test_the_newest_comes_first(runs):
    made_in_order = [made(runs, created=at) for at in (3.0, 1.0, 2.0)]
    assert [run.created for run in runs.list_all()] == [3.0, 2.0, 1.0]
    assert {run.id for run in runs.list_all()} == {run.id for run in made_in_order}


def test_while_nothing_changes_it_is_the_same_list_and_no_record_is_read(runs, monkeypatch):
    kept, changed = made(runs, state="done"), made(runs, state="lost")
    before = runs.list_all()
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_record", None)
        assert runs.list_all() is before
    RunStore(runs.home).set_notes(changed.id, "seen elsewhere")
    after = runs.list_all()
    assert after is not before
    assert runs.get(changed.id).notes == "seen elsewhere"
    assert runs.get(kept.id) is next(run for run in before if run.id == kept.id)


def test_hundreds_of_runs_are_looked_through_in_milliseconds(runs, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for _ in range(300):
        runs.create(runs.create_id(), module.RunRequest(verb="compress"))
    runs.list_all()
    best = min(_seconds(runs.list_all) for _ in range(3))
    assert best < 0.05


def _seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_a_run_is_live_only_while_its_process_is(runs):
    me = get_process(os.getpid())
    assert runs.get(made(runs, state="running", processes=[me]).id).state == "running"
    assert runs.get(made(runs, state="running", processes=[NOBODY, me]).id).state == "running"
    lost = runs.get(made(runs, state="running", processes=[NOBODY]).id)
    assert (lost.state, lost.is_resumable) == ("lost", True)
    assert "ended unexpectedly" in lost.message
    assert runs.get(made(runs, state="stopping", processes=[NOBODY]).id).state == "stopped"
    assert runs.get(made(runs, state="done", processes=[NOBODY]).id).state == "done"


def test_a_process_with_the_same_number_is_not_the_same_process(runs):
    me = get_process(os.getpid())
    other = ProcessId(pid=me.pid, created=me.created - 3600)
    assert runs.get(made(runs, state="running", processes=[other]).id).state == "lost"


def test_a_run_without_a_process_is_given_time_to_get_one(runs):
    assert runs.get(made(runs).id).state == "queued"
    assert runs.get(made(runs, queued=time.time() - 60).id).state == "lost"


def test_what_a_process_writes_just_before_it_ends_is_not_missed(runs, monkeypatch):
    run = made(runs, state="running", processes=[NOBODY])

    def look(_):
        monkeypatch.setattr(module, "is_any_alive", lambda _: False)
        RunStore(runs.home).update(run.id, lambda run: run.replace(state="done"))
        return False

    monkeypatch.setattr(module, "is_any_alive", look)
    assert runs.get(run.id).state == "done"


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "/etc", "20260101-000000-abcdef", "x" * 5000, "a\x00b"])
def test_a_name_that_is_none_is_refused(runs, name):
    made(runs)
    for call in (runs.get, runs.read_events, runs.log, runs.delete):
        with pytest.raises(RequestError, match="does not exist"):
            call(name)


def test_other_things_in_the_folder_are_no_runs(runs):
    made(runs)
    (runs.folder / "notes.txt").write_text("mine")
    (runs.folder / "20260101").mkdir()
    assert len(runs.list_all()) == 1


def test_a_folder_that_was_deleted_leaves_the_list(runs):
    gone, kept = made(runs), made(runs)
    runs.list_all()
    (runs.get_folder(gone.id) / "record.json").unlink()
    (runs.get_folder(gone.id) / "reserve").unlink()
    runs.get_folder(gone.id).rmdir()
    assert [run.id for run in runs.list_all()] == [kept.id]
    with pytest.raises(RequestError, match="does not exist"):
        runs.set_notes(gone.id, "x")
    assert not runs.get_folder(gone.id).exists()


def test_a_state_folder_that_cannot_be_made_is_said_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    runs = RunStore(tmp_path / "file" / "state")
    assert runs.list_all() == ()
    with pytest.raises(DiskError, match="LSPRISM_STATE"):
        made(runs)


def test_a_lock_that_is_never_given_back_is_said(runs, monkeypatch):
    run = made(runs, state="done")
    monkeypatch.setattr(module, "LOCK_S", 0.05)
    with runs.lock(), pytest.raises(LSPrismError, match="held by another process"):
        RunStore(runs.home).set_notes(run.id, "x")


def test_how_far_it_is_and_the_time_left_only_of_this_session(runs):
    run = made(runs, state="running", processes=[get_process(os.getpid())], begun=time.time() - 1)
    assert runs.get_progress(run.id) is None
    journal, step = (
        EventLog(runs.get_folder(run.id)),
        Progress(step="s", block=1, of=4, fraction=0.25, elapsed_s=1, eta_s=9),
    )
    journal.add(step)
    journal.close()
    assert runs.get_progress(run.id) == step
    runs.update(run.id, lambda run: run.replace(begun=time.time() + 1))
    assert runs.get_progress(run.id) == step.model_copy(update={"eta_s": None})
