"""One run at a time on each device, in the order in which they came."""

import os
import threading
import time

import pytest
from fake_runs import NOBODY, made

from lsprism.runs import RunStore
from lsprism.runs.process import get_process


@pytest.fixture
def runs(tmp_path) -> RunStore:
    return RunStore(tmp_path / "state")


@pytest.mark.parametrize(
    ("one", "other", "waits"),
    [
        ("cpu", "cpu", True),
        ("cuda", "cuda:0", True),
        ("cuda:0", "cuda:1", False),
        ("cpu", "cuda:0", False),
        ("auto", "cpu", True),
        ("cuda:1", "auto", True),
        ("", "cpu", False),
        ("", "", False),
    ],
)
def test_runs_wait_for_the_same_device_only(runs, one, other, waits):
    made(runs, device=one)
    second = made(runs, device=other)
    assert bool(runs.find_ahead(second)) is waits
    assert runs.start_if_next(second.id) is not waits


def test_the_queue_is_first_come_first_served(runs):
    first, second, third = (made(runs, queued=time.time() + n / 100) for n in range(3))
    assert [run.id for run in runs.find_ahead(third)] == [second.id, first.id]
    assert not runs.start_if_next(third.id)
    assert runs.start_if_next(first.id)
    assert runs.get(first.id).begun
    assert not runs.start_if_next(second.id)
    runs.update(first.id, lambda run: run.replace(state="done"))
    assert not runs.start_if_next(third.id)
    assert runs.start_if_next(second.id)


def test_a_run_that_is_stopping_still_holds_its_device_and_a_lost_one_does_not(runs):
    before, next_one = made(runs, state="stopping"), made(runs)
    assert not runs.start_if_next(next_one.id)
    runs.update(before.id, lambda run: run.replace(state="running", processes=[NOBODY]))
    assert runs.start_if_next(next_one.id)


def test_so_does_one_that_has_noted_its_end_while_its_process_lives(runs):
    before, next_one = made(runs, state="done", processes=[get_process(os.getpid())], ended=time.time()), made(runs)
    assert not runs.start_if_next(next_one.id)
    runs.update(before.id, lambda run: run.replace(ended=time.time() - 60))  # another process has its number by now
    assert runs.start_if_next(next_one.id)


def test_only_a_queued_run_takes_its_turn(runs):
    assert not runs.start_if_next(made(runs, state="stopping").id)
    assert not runs.start_if_next(made(runs, state="done").id)


def test_of_many_that_ask_at_once_one_begins(runs):
    made_now = [made(runs) for _ in range(6)]
    answers = []
    threads = [
        threading.Thread(target=lambda run=run: answers.append(RunStore(runs.home).start_if_next(run.id)))
        for run in made_now
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 5 + [True]
