"""Starting, finding again, stopping and resuming, with real processes whose command is a few lines of Python."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_runs import fake, made, until

from lsprism.errors import RequestError, WorkError
from lsprism.runs import RunStore, request_stop, resume, start, stop
from lsprism.runs.process import FIRST_TO_GO, NICE, is_any_alive, kill_tree
from lsprism.specs import CompressSpec, EvaluateSpec, PlanSpec

pytestmark = pytest.mark.slow  # whole runs: half a minute together

ROOT = Path(__file__).parents[2]
SLEEPS = fake("import time; time.sleep(60)")
# Tells what it was started with.
TELLS = fake(
    "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('HF_TOKEN'), os.getcwd(), os.nice(0)]))"
)
# Has a child, and neither of them heeds a polite word.
DEAF = fake("""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])
print(child.pid, flush=True)
time.sleep(60)
""")
SPEC = PlanSpec(model_id="demo", device="cpu")


@pytest.fixture
def runs(tmp_path):
    runs = RunStore(tmp_path / "state")
    yield runs
    for run in runs.list_all():  # what a failed test leaves
        if run.is_active and run.processes:
            stop(runs, run.id, 0.5)


def done(runs: RunStore, run_id: str) -> bool:
    return not runs.get(run_id).is_active and not is_any_alive(runs.get(run_id).processes)


def test_a_run_is_started_in_its_own_folder_at_lower_priority_with_the_token_in_its_environment_only(runs):
    started = time.perf_counter()
    run = start(runs, "compress", SPEC, token=" hf_secret ", program=TELLS)
    assert time.perf_counter() - started < 1
    until(lambda: done(runs, run.id))
    words, token, cwd, nice = json.loads(runs.log(run.id))
    place = runs.get_folder(run.id) / "artifact"
    assert words == ["compress", "--model-id", "demo", "--device", "cpu", "--save-path", str(place)]
    assert (token, cwd) == ("hf_secret", os.getcwd())
    assert nice >= NICE
    found = runs.get(run.id)
    assert (found.state, found.artifact, found.settings["save_path"]) == ("done", place, str(place))
    for path in runs.home.rglob("*"):
        if path.is_file() and path.name != "log":  # into which our own fake has told it
            assert b"hf_secret" not in path.read_bytes()


def test_a_report_without_a_place_goes_into_the_folder_of_the_run_too(runs):
    run = start(runs, "evaluate", EvaluateSpec(model_id="demo", device="cpu"), program=TELLS)
    until(lambda: done(runs, run.id))
    place = runs.get_folder(run.id) / "report"
    assert json.loads(runs.log(run.id))[0][-2:] == ["--save-path", str(place)]
    assert runs.get(run.id).artifact == place


def test_a_token_among_the_settings_is_refused(runs):
    spec = CompressSpec(model_id="hf_secret/x", save_path="out")
    with pytest.raises(RequestError, match="token"):
        start(runs, "compress", spec, token="hf_secret")
    assert runs.list_all() == ()


def test_without_a_token_the_child_has_that_of_its_starter(runs, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    run = start(runs, "compress", SPEC, program=TELLS)
    until(lambda: done(runs, run.id))
    assert json.loads(runs.log(run.id))[1] == "mine"


def test_the_arguments_of_no_process_show_the_token(runs):
    run = start(runs, "compress", SPEC, token="hf_secret", program=SLEEPS)
    until(lambda: runs.get(run.id).state == "running")
    supervisor = psutil.Process(runs.get(run.id).processes[0].pid)
    until(supervisor.children)
    [command] = supervisor.children()
    until(lambda: "-S" in command.cmdline())  # until then it is a copy of the supervisor
    assert not any("hf_secret" in word for process in (supervisor, command) for word in process.cmdline())
    assert command.environ()["HF_TOKEN"] == "hf_secret"
    if sys.platform == "linux":  # where memory runs out, it goes before the process that started it
        assert Path(f"/proc/{command.pid}/oom_score_adj").read_text().strip() == FIRST_TO_GO


@pytest.mark.slow
def test_two_quick_starts_are_one_at_work_and_one_that_waits(runs):
    first, second = (start(runs, "compress", SPEC, program=SLEEPS) for _ in range(2))
    until(lambda: runs.get(first.id).state == "running")
    assert [run.id for run in runs.find_ahead(runs.get(second.id))] == [first.id]
    stop(runs, first.id)
    until(lambda: runs.get(second.id).state == "running")
    stop(runs, second.id)
    assert [run.state for run in runs.list_all()] == ["stopped", "stopped"]


def test_another_process_finds_it_again_and_stops_it_for_certain_with_its_child(runs, monkeypatch):
    run = start(runs, "compress", SPEC, program=DEAF)
    until(lambda: runs.log(run.id).strip())
    child = psutil.Process(int(runs.log(run.id)))
    code = f"""
from lsprism.runs import RunStore, stop
runs = RunStore({str(runs.home)!r})
[run] = runs.list_all()
print(run.state, stop(runs, run.id, 0.3).state)
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert answer.stdout == "running stopped\n", answer.stderr
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert done(runs, run.id)
    assert runs.get(run.id).ended


def test_a_command_on_the_terminal_is_stopped_from_elsewhere(runs, monkeypatch):
    code = """
import time
from lsprism.runs import RunRequest, RunRecorder
with RunRecorder(RunRequest(verb="compress"), print):
    print("begun", flush=True)
    time.sleep(60)
"""
    monkeypatch.setenv("LSPRISM_STATE", str(runs.home))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    [run] = runs.list_all()
    assert run.state == "running"
    assert stop(runs, run.id).state == "stopped"
    process.communicate(timeout=5)


def test_a_full_disk_is_no_obstacle_to_stopping(runs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = start(runs, "compress", SPEC, program=SLEEPS)
    until(lambda: runs.get(run.id).state == "running")
    with monkeypatch.context() as patch:
        patch.setattr("lsprism.runs.store.write_record", full)
        request_stop(runs, run.id)
    until(lambda: runs.get(run.id).state == "stopped")


@pytest.mark.slow
def test_it_lives_on_when_its_starter_is_killed(runs):
    code = f"""
import os
from lsprism.runs import RunStore, start
from lsprism.specs import PlanSpec
start(RunStore({str(runs.home)!r}), "compress", PlanSpec(model_id="demo"), program={SLEEPS!r})
os.killpg(0, 9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, start_new_session=True).returncode == -9
    [run] = runs.list_all()
    until(lambda: runs.get(run.id).state == "running")
    assert stop(runs, run.id).state == "stopped"


def test_a_command_that_the_system_kills_is_a_failed_run_with_its_last_lines(runs):
    dies = fake("import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    run = start(runs, "compress", SPEC, program=dies)
    until(lambda: done(runs, run.id))
    assert runs.get(run.id).state == "failed"
    assert "memory" in runs.get(run.id).message
    assert runs.log(run.id) == "last words\n"


def test_a_supervisor_that_is_killed_too_is_a_lost_run_that_can_be_resumed(runs):
    run = start(runs, "compress", SPEC, program=SLEEPS)
    until(lambda: runs.get(run.id).state == "running")
    kill_tree(runs.get(run.id).processes[0])
    until(lambda: runs.get(run.id).state == "lost")
    resume(runs, run.id, program=TELLS)
    until(lambda: done(runs, run.id))
    again = runs.get(run.id)
    assert (again.state, again.message, again.words[-1]) == ("done", "", "--resume")
    assert json.loads(runs.log(run.id))[0][-1] == "--resume"
    assert again.created == run.created < again.queued


def test_what_is_not_over_is_not_resumed_and_what_is_over_not_stopped(runs):
    for state in ("queued", "running", "stopping", "done"):
        with pytest.raises(RequestError, match=f"is {state}"):
            resume(runs, made(runs, state=state).id, program=SLEEPS)
    for state in ("stopped", "done", "failed", "lost"):
        with pytest.raises(RequestError, match="Only a queued or running run"):
            request_stop(runs, made(runs, state=state).id)


def test_of_two_that_resume_at_once_one_is_refused(runs):
    run = made(runs, state="stopped")
    resume(runs, run.id, program=SLEEPS)
    with pytest.raises(RequestError, match="is (queued|running)"):
        resume(RunStore(runs.home), run.id, program=SLEEPS)
    stop(runs, run.id)


def test_a_verb_without_the_option_is_resumed_without_it(runs):
    run = made(runs, verb="evaluate", state="failed", words=["--x"], settings={"model_id": "demo"})
    resume(runs, run.id, program=TELLS)
    until(lambda: done(runs, run.id))
    assert json.loads(runs.log(run.id))[0] == ["evaluate", "--x"]


def test_a_run_that_cannot_be_started_is_in_the_list_as_failed(runs, tmp_path):
    run = made(runs, state="stopped", cwd=tmp_path / "gone")
    with pytest.raises(WorkError, match="cannot be started: No such file"):
        resume(runs, run.id)
    assert runs.get(run.id).state == "failed"
    assert str(tmp_path / "gone") in runs.get(run.id).message


@pytest.mark.slow
def test_ten_quick_starts_and_stops_leave_nothing_behind(runs):
    started = [start(runs, "compress", SPEC, program=SLEEPS) for _ in range(10)]
    for run in reversed(started[5:]):
        request_stop(runs, run.id)
    for run in started[:5]:
        stop(runs, run.id)
    until(lambda: all(done(runs, run.id) for run in started))
    assert {run.state for run in runs.list_all()} == {"stopped"}
    for run in started:
        runs.delete(run.id)
    assert list(runs.folder.iterdir()) == []
