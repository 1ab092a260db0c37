"""What a command on the terminal writes down; it never fails because of that."""

import json
import os
import shutil
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import pytest
import torch

from lsprism.cli import main
from lsprism.errors import SpecError, WorkError
from lsprism.events import Finished, Notice
from lsprism.records.compression import StatsReport
from lsprism.runs import RunRecorder, RunStore, event_log, store
from lsprism.runs.argv import make_request
from lsprism.runs.recorder import RUN
from lsprism.specs import CompressSpec

STATS = StatsReport(model_id="m", calibration="c", samples=3, length=2, sites=[])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LSPRISM_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def compress(tiny_folder, text_file, tmp_path, capsys):
    """Compress the tiny model into `out`; returns exit code and standard error."""

    def run(*words) -> tuple[int, str]:
        least = ["--model-id", tiny_folder, "--calibration", text_file, "--samples", 2, "--length", 16]
        target = ["--method", "wanda", "--save-path", tmp_path / "out"]
        code = main(["compress", *map(str, [*least, *target, *words])])
        return code, capsys.readouterr().err

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(before)


def recorded(events=(), error=None, **settings):
    """The run that a command leaves which sees these events and ends with this error; and its warnings."""
    warned = []
    spec = CompressSpec(model_id="demo", save_path="out", **settings)
    expected = suppress(type(error)) if error else nullcontext()
    with expected, RunRecorder(make_request("compress", spec, "command line"), warned.append) as recording:
        for event in events:
            recording.add(event)
        if error:
            raise error
    return RunStore().list_all(), warned


def test_a_compression_is_a_run_in_the_list(compress, tmp_path):
    code, said = compress()
    assert (code, "not recorded" in said) == (0, False)
    [run] = RunStore().list_all()
    assert (run.verb, run.state, run.origin, run.exit_code) == ("compress", "done", "command line", 0)
    assert run.artifact == tmp_path / "out"
    report = json.loads((tmp_path / "out/lsprism/report.json").read_text())
    assert run.figures["kept_parameters"] == report["kept_parameters"]
    kinds = [moment.event.kind for moment in RunStore().read_events(run.id).moments]
    assert kinds[0] == "stage"
    assert kinds.count("block_done") == 2
    assert kinds[-1] == "finished"


def test_an_evaluation_is_one_too(tiny_folder, tmp_path, capsys):
    words = f"--model-id {tiny_folder} --baseline none --measures sizes --save-path {tmp_path}/out".split()
    assert main(["evaluate", *words]) == 0, capsys.readouterr().err
    [run] = RunStore().list_all()
    assert (run.verb, run.state, run.artifact) == ("evaluate", "done", tmp_path / "out")
    assert run.figures
    assert RunStore().read_events(run.id).moments[-1].event.kind == "finished"


def test_what_was_refused_leaves_no_run(compress):
    compress()
    assert compress()[0] == 2
    assert compress("--samples", "0")[0] == 2
    assert len(RunStore().list_all()) == 1
    assert [path.name for path in RunStore().folder.iterdir()] == [RunStore().list_all()[0].id]


def test_a_stopped_run_goes_on_as_the_same_run(compress, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lsprism.api.run", stop)
        assert compress()[0] == 130
    [run] = RunStore().list_all()
    assert (run.state, run.exit_code) == ("stopped", 130)
    RunStore().set_notes(run.id, "mine")
    assert compress("--resume")[0] == 0
    [again] = RunStore().list_all()
    assert (again.id, again.state, again.notes, again.created) == (run.id, "done", "mine", run.created)
    assert compress("--resume")[0] == 0  # of what is finished, there is nothing to go on with: a run of its own
    assert len(RunStore().list_all()) == 2


def test_a_bug_is_a_failed_run_and_is_raised():
    [run], _ = recorded(error=ZeroDivisionError("by zero"))
    assert (run.state, run.message) == ("failed", "ZeroDivisionError: by zero")


def test_the_figures_are_those_of_any_report():
    [run], _ = recorded([Finished(report=STATS)])
    assert run.figures == {"model_id": "m", "calibration": "c", "samples": 3, "length": 2}


@pytest.mark.parametrize("why", ["a file is there", "No space left on device", "Permission denied", "locked"])
def test_where_nothing_can_be_written_the_command_says_so_and_does_its_work(compress, home, monkeypatch, why):
    def refuse(*_):
        raise OSError(28 if "space" in why else 13, why)

    with ExitStack() as meanwhile:
        if why == "locked":
            monkeypatch.setattr(store, "LOCK_S", 0.05)
            meanwhile.enter_context(RunStore().lock())
        elif why == "a file is there":
            home.write_text("")
        else:
            monkeypatch.setattr(store, "write_record", refuse)
        code, said = compress()
    assert code == 0
    [warned] = [line.strip() for line in said.splitlines() if "recorded" in line]
    assert warned.startswith("This run is not recorded: ")
    assert why in warned or why in ("a file is there", "locked")


def test_a_disk_that_fills_up_meanwhile_costs_the_events_and_not_the_end(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_log.EventLog, "_write", full)
    [run], warned = recorded([Notice(text="a"), Notice(text="b"), Finished(report=STATS)])
    assert warned == ["This run is not recorded: [Errno 28] No space left on device"]
    assert (run.state, run.figures["samples"]) == ("done", 3)


def test_a_folder_deleted_meanwhile_costs_a_word(home):
    class Deletes:
        def model_dump_json(self):
            shutil.rmtree(home)
            return "{}"

    listed, warned = recorded([Deletes()])
    assert listed == ()
    assert len(warned) == 1
    assert not (home / "runs").exists()


def test_in_a_supervised_run_it_writes_there_and_hands_the_name_on_to_nobody(monkeypatch):
    shelf = RunStore()
    order = make_request("compress", CompressSpec(model_id="demo", save_path="out"))
    run = shelf.create(shelf.create_id(), order)
    monkeypatch.setenv(RUN, str(shelf.get_folder(run.id)))
    [found], _ = recorded([Notice(text="a")])
    assert RUN not in os.environ
    assert (found.id, found.state, found.origin) == (run.id, "done", "dashboard")
    assert found.processes[0].pid == os.getpid()
    assert len(shelf.read_events(run.id).moments) == 1


def test_text_that_is_no_unicode_is_recorded_escaped():
    for error in (SpecError("half of a pair: \ud83d.", "Fix \ud83d."), RuntimeError("\ud83d")):
        (run, *_), warned = recorded([Notice(text="begun")], WorkError(str(error), "Again \ud83d."))
        assert run.state == "failed" and "\\ud83d" in run.message and not warned
    (run, *_), _ = recorded([Notice(text="begun")], RuntimeError("\ud83d"))
    assert run.message == "RuntimeError: \\ud83d"
