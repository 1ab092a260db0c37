"""The worker thread: events in order, errors raised here, stopped within two seconds whatever it does."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lsprism.cli import worker_thread as module
from lsprism.cli.worker_thread import handle_stop_signals, show_events
from lsprism.errors import NumericError
from lsprism.events import Notice

ROOT = Path(__file__).parents[2]


def noted(*texts: str):
    return [Notice(text=text) for text in texts]


def test_events_are_shown_in_order_and_the_report_of_the_last_is_returned():
    class WithReport:
        report = "the report"

    seen = []
    assert show_events(lambda: iter([*noted("a", "b"), WithReport()]), seen.append) == "the report"
    assert seen[:2] == noted("a", "b")
    assert show_events(lambda: iter(noted("a")), seen.append) is None


def test_what_a_generator_returns_is_returned():
    def work():
        yield Notice(text="a")
        return "value"

    assert show_events(work, lambda _: None) == "value"


def test_the_work_is_done_on_a_thread_and_shown_on_this_one():
    threads = {}

    def work():
        threads["work"] = threading.current_thread()
        yield Notice(text="a")

    show_events(work, lambda _: threads.update(show=threading.current_thread()))
    assert threads["show"] is threading.current_thread()
    assert threads["work"] is not threads["show"]


@pytest.mark.parametrize("at", ["before", "meanwhile"])
def test_what_the_work_raises_is_raised_here(at):
    def refuse():
        raise NumericError("broken", "fix it")

    def work():
        yield Notice(text="a")
        refuse()

    with pytest.raises(NumericError, match="broken"):
        show_events(refuse if at == "before" else work, lambda _: None)


def test_an_error_while_showing_is_raised_too():
    def show(_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        show_events(lambda: iter(noted("a")), show)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_generator_at_its_next_event(number):
    closed = threading.Event()

    def work():
        try:
            while True:
                time.sleep(0.01)
                yield Notice(text="a")
        finally:
            closed.set()

    with pytest.raises(KeyboardInterrupt), handle_stop_signals():
        show_events(work, lambda _: os.kill(os.getpid(), number))
    assert closed.is_set()


def test_a_signal_is_heard_while_the_work_cannot_be_interrupted(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    release, started = threading.Event(), time.monotonic()

    def work():
        yield Notice(text="a")
        release.wait(30)

    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), handle_stop_signals():
        show_events(work, lambda _: None)
    assert time.monotonic() - started < 2
    release.set()


def test_the_handlers_of_before_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with handle_stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_on_another_thread_there_are_no_signals_to_hear():
    def run():
        with handle_stop_signals():
            done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


# A command whose worker sits in a download: a child process that heeds no signal.
STUBBORN = """
    import subprocess, sys
    from lsprism.cli.worker_thread import STOPPED, show_events, exit_now, handle_stop_signals
    from lsprism.events import Notice

    def work():
        child = subprocess.Popen(["sh", "-c", "trap '' INT TERM; echo $$; while :; do sleep 0.1; done"])
        yield Notice(text="a")
        child.wait()

    try:
        with handle_stop_signals():
            show_events(work, lambda event: None)
    except KeyboardInterrupt:
        exit_now(STOPPED)
"""


@pytest.fixture
def stubborn():
    """The process, and the id of its child."""
    command = [sys.executable, "-c", textwrap.dedent(STUBBORN)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    time.sleep(0.1)
    yield process, child
    process.kill()
    process.communicate()


def ends(process: subprocess.Popen) -> float:
    started = time.monotonic()
    process.wait(10)
    return time.monotonic() - started


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody has waited for is dead too
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_ctrl_c_ends_a_stubborn_command_and_its_child_within_two_seconds(stubborn):
    process, child = stubborn
    process.send_signal(signal.SIGINT)
    assert ends(process) < 2
    assert process.returncode == 130
    time.sleep(0.1)
    assert gone(child)


def test_a_second_ctrl_c_ends_it_at_once(stubborn):
    process, child = stubborn
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert ends(process) < 0.6  # the first alone waits a second for the worker
    assert process.returncode == 130
    time.sleep(0.1)
    assert gone(child)
