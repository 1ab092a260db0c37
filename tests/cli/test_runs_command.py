"""The verb `runs`: what stands on standard output, and what it refuses."""

import json
import os

import pytest

from lsprism.cli import main
from lsprism.cli.run_commands import format_state
from lsprism.events import Notice, Progress, Stage
from lsprism.runs import Run, RunRequest, RunStore
from lsprism.runs.event_log import LOG, EventLog
from lsprism.runs.process import get_process

SETTINGS = {"model_id": "demo", "method": "svd", "sparsity": 0.3}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> RunStore:
    monkeypatch.setenv("LSPRISM_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return RunStore()


@pytest.fixture
def say(capsys):
    """Run the verb; returns exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["runs", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def made(runs: RunStore, **changes) -> Run:
    order = RunRequest(
        verb="compress", words=["--model-id", "demo"], settings=SETTINGS, artifact=runs.home.parent / "out"
    )
    run = runs.create(runs.create_id(), order)
    return runs.update(run.id, lambda run: run.replace(**{"state": "done", **changes}))


def test_the_list_names_every_run_with_its_state_and_result(runs, say):
    code, out, err = say()
    assert (code, out, err) == (0, "", f"No runs in {runs.folder}.\n")
    one, other = made(runs), made(runs, state="failed")
    code, out, _ = say("list")
    assert code == 0
    for run, state in ((one, "done"), (other, "failed")):
        [line] = [line for line in out.splitlines() if run.id in line]
        assert line.split()[1:] == [state, "compress", "demo", "svd", "0.3", "out"]
    listed = json.loads(say("list", "--json")[1])
    assert {entry["id"] for entry in listed} == {one.id, other.id}


def test_a_damaged_record_is_named_among_the_others(runs, say):
    good, bad = made(runs), made(runs)
    (runs.get_folder(bad.id) / "record.json").write_text("{")
    out = say()[1]
    assert good.id in out
    assert "damaged" in next(line for line in out.splitlines() if bad.id in line)


def test_show_says_why_it_failed_with_the_last_lines(runs, say):
    run = made(runs, state="failed", message="It crashed.", hint="Try again.", figures={"stored_bytes": 1234567})
    (runs.get_folder(run.id) / LOG).write_text("".join(f"line {n}\n" for n in range(50)))
    code, out, _ = say("show", run.id)
    assert code == 0
    for word in ("It crashed. Try again.", "python -m lsprism compress --model-id demo", "line 49", "1,234,567"):
        assert word in out
    assert "line 29" not in out
    assert json.loads(say("show", run.id, "--json")[1])["message"] == "It crashed."


def test_a_name_may_be_shortened_as_long_as_it_is_clear(runs, say):
    one, _ = made(runs), made(runs)
    assert json.loads(say("show", one.id[:-1], "--json")[1])["id"] == one.id
    code, _, err = say("show", one.id[:8])
    assert code == 2
    assert "matches 2 runs" in err
    assert say("show", "2000")[0] == 2
    assert "requires a run id" in say("stop")[2]


def test_the_log_of_a_run_from_the_terminal_is_what_its_events_say(runs, say):
    run = made(runs)
    journal = EventLog(runs.get_folder(run.id))
    journal.add(Stage(name="prepare", detail="demo"))
    journal.add(Notice(text="a notice"))
    journal.close()
    assert say("log", run.id)[1] == "prepare  demo\n  a notice\n"
    (runs.get_folder(run.id) / LOG).write_text("said\n")
    assert say("log", run.id)[1] == "said\n"
    assert json.loads(say("log", run.id, "--json")[1]) == {"id": run.id, "log": "said\n"}


def test_the_state_tells_how_far_it_is_and_what_it_waits_for(runs):
    me = [get_process(os.getpid())]
    running = made(runs, state="running", processes=me, device="cpu", begun=1.0)
    journal = EventLog(runs.get_folder(running.id))
    journal.add(Progress(step="s", block=2, of=4, fraction=0.25, elapsed_s=1.0, eta_s=130))
    journal.close()
    assert format_state(runs, running) == "running 25%, 2 min 10 s left"
    assert format_state(runs, made(runs, state="queued", device="cpu")) == "queued behind 1"


def test_delete_takes_the_run_and_says_what_stays(runs, say):
    run = made(runs)
    (run.artifact / "lsprism").mkdir(parents=True)
    (run.artifact / "lsprism" / "manifest.json").write_text("{}")
    code, out, err = say("delete", run.id)
    assert (code, out) == (0, "")
    assert err == f"Deleted run {run.id}.\nIts artifact remains at {run.artifact}.\n"
    run = made(runs)
    assert json.loads(say("delete", run.id, "--artifact", "out", "--json")[1]) == {"id": run.id, "deleted": True}
    assert not run.artifact.exists()


def test_what_makes_no_sense_is_refused(runs, say):
    run = made(runs)
    for words, says in (
        (("stop", run.id), "Only a queued or running run can be stopped"),
        (("resume", run.id), "is done"),
        (("shrink",), "invalid choice"),
        (("show", run.id, "--artifact", "out"), "--artifact requires the action delete"),
        (("delete", run.id, "--artifact", "elsewhere"), "not at"),
    ):
        code, out, err = say(*words)
        assert (code, out) == (2, "")
        assert says in err
    assert runs.get(run.id) == run
