"""The keeper: it waits for the turn, ends the command when asked, and writes down how it ended."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fake_runs import fake, kept, made, until

from lsprism.runs import RunStore, request_stop, supervisor
from lsprism.runs import store as module
from lsprism.runs.launch import PROGRAM
from lsprism.runs.process import find, get_process
from lsprism.runs.recorder import RUN

pytestmark = pytest.mark.slow  # whole runs: half a minute together

SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervisor, "POLL_S", 0.02)
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.3)


@pytest.fixture
def runs(tmp_path) -> RunStore:
    return RunStore(tmp_path / "state")


def ended(runs: RunStore, run, script: str):
    """What becomes of a run whose command is `script`."""
    with kept(runs, run, script):
        pass
    return runs.get(run.id)


def with_log(runs: RunStore, text: str):
    run = made(runs)
    (runs.get_folder(run.id) / "log").write_text(text)
    return run


def test_the_command_gets_the_verb_the_words_and_the_run(runs, tmp_path):
    out = tmp_path / "out"
    script = f"import os, sys; open({str(out)!r}, 'w').write(repr([sys.argv[1:], os.environ[{RUN!r}]]))"
    run = made(runs, verb="evaluate", words=["--a", "b c"])
    assert ended(runs, run, script).state == "done"
    assert eval(out.read_text()) == [["evaluate", "--a", "b c"], str(runs.get_folder(run.id))]
    assert RUN not in os.environ


@pytest.mark.parametrize(
    ("script", "state", "says"),
    [
        ("", "done", ""),
        ("raise SystemExit(130)", "stopped", ""),
        ("raise SystemExit(1)", "failed", "Exited with code 1: last words"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "ran out of memory"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "Crashed (SIGSEGV)."),
    ],
)
def test_how_it_ended_is_written_down(runs, script, state, says):
    run = ended(runs, with_log(runs, "first words\nlast words\n\n"), script)
    assert run.state == state
    assert says in run.message
    assert run.exit_code is not None
    assert run.ended >= run.begun


def test_log_lines_that_look_like_errors_are_not_taken_for_the_reason(runs):
    run = ended(runs, with_log(runs, "error 42 of the library\nmore\n"), "raise SystemExit(2)")
    assert run.message == "Exited with code 2: more"


def test_a_command_that_fails_before_it_is_recorded_gives_its_reason(runs, monkeypatch):
    """The real command line: its arguments are refused before anything else happens."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    run = made(runs, words=["--model-id", "demo", "--sparsity", "2", "--save-path", "out"])
    supervisor.run_supervised(runs.get_folder(run.id), list(PROGRAM), threading.Event())
    run = runs.get(run.id)
    assert (run.state, run.exit_code) == ("failed", 2)
    assert run.message == "--sparsity: input should be less than 1, got '2'."


def test_what_the_command_wrote_down_itself_stands(runs, monkeypatch):
    """And the end of its work is no reason to end it: it may have something left to say."""
    run = made(runs)
    with kept(runs, run, "import time; time.sleep(0.3)"):
        until(lambda: runs.get(run.id).state == "running")
        runs.update(run.id, lambda run: run.replace(state="done", figures={"a": 1}))
    found = runs.get(run.id)
    assert (found.state, found.exit_code, found.figures) == ("done", 0, {"a": 1})


@pytest.mark.parametrize("script", [SLEEPS, DEAF], ids=["heeds", "deaf"])
@pytest.mark.parametrize("by", ["signal", "record"])
def test_it_is_stopped_for_certain(runs, script, by):
    run = made(runs)
    started = time.monotonic()
    with kept(runs, run, script) as asked:
        until(lambda: runs.get(run.id).state == "running")
        time.sleep(0.1)
        request_stop(runs, run.id)  # whose signal reaches nobody: the keeper is a thread here
        if by == "signal":
            asked.set()
    assert runs.get(run.id).state == "stopped"
    assert time.monotonic() - started < 5


def test_a_queued_run_that_is_stopped_never_begins(runs, tmp_path):
    made(runs, state="stopping")  # holds the device
    run = made(runs)
    with kept(runs, run, f"open({str(tmp_path / 'begun')!r}, 'w')"):
        time.sleep(0.1)
        request_stop(runs, run.id)
    assert (runs.get(run.id).state, runs.get(run.id).begun) == ("stopped", None)
    assert not (tmp_path / "begun").exists()


def test_it_waits_for_its_turn_and_then_begins(runs):
    first, second = made(runs), made(runs)
    with kept(runs, second, ""):
        time.sleep(0.1)
        assert runs.get(second.id).state == "queued"
        with kept(runs, first, ""):
            pass
    assert [runs.get(run.id).state for run in (first, second)] == ["done", "done"]
    assert runs.get(second.id).begun >= runs.get(first.id).ended


def test_where_its_folder_is_deleted_the_command_is_ended(runs, tmp_path):
    pid = tmp_path / "pid"
    run = made(runs)
    with kept(runs, run, f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"):
        until(lambda: pid.exists() and pid.read_text())
        process = get_process(int(pid.read_text()))
        shutil.rmtree(runs.get_folder(run.id))
    assert find(process) is None
    assert not runs.get_folder(run.id).exists()


def test_a_disk_that_refuses_for_a_while_delays_it_only(runs, monkeypatch):
    run, refused = made(runs), []
    write = module.write_record

    def refuse(*args):
        if len(refused) < 3:
            refused.append(1)
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(module, "write_record", refuse)
    assert ended(runs, run, "").state == "done"
    assert len(refused) == 3


def test_a_program_that_cannot_be_started_is_a_failed_run(runs):
    run = made(runs)
    supervisor.run_supervised(runs.get_folder(run.id), ["/no/such/program"], threading.Event())
    assert runs.get(run.id).state == "failed"
    assert "/no/such/program cannot be started: No such file" in runs.get(run.id).message


def test_what_the_command_leaves_behind_is_ended_with_it(runs, tmp_path):
    pid = tmp_path / "pid"
    child = f"""
import subprocess, sys
left = subprocess.Popen([sys.executable, '-S', '-c', {SLEEPS!r}])
open({str(pid)!r}, 'w').write(str(left.pid))
"""
    run = made(runs)
    command = [sys.executable, "-m", "lsprism.runs.keeper", str(runs.get_folder(run.id)), *fake(child)]
    assert subprocess.run(command, start_new_session=True, timeout=30).returncode == 0
    assert runs.get(run.id).state == "done"
    until(lambda: not _lives(int(pid.read_text())))


def _lives(pid: int) -> bool:
    try:
        return find(get_process(pid)) is not None
    except psutil.Error:
        return False


def test_it_hears_a_signal_itself(runs):
    run = made(runs)
    command = [sys.executable, "-m", "lsprism.runs.keeper", str(runs.get_folder(run.id)), *fake(SLEEPS)]
    process = subprocess.Popen(command, start_new_session=True)
    until(lambda: runs.get(run.id).state == "running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert (runs.get(run.id).state, runs.get(run.id).exit_code) == ("stopped", 130)
