"""The real worker process with the demo model."""

import time

import pytest

from lsprism.chat import SLOTS, ChatClient, ModelRequest
from lsprism.specs import GenerateSpec

DEMO = dict.fromkeys(SLOTS, ModelRequest(model_id="demo"))
LONG = GenerateSpec(max_new_tokens=4000, ignore_eos=True)


@pytest.fixture(scope="module")
def talk():
    one = ChatClient()
    yield one
    one.close()


def until(true, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the condition was not reached in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_it_loads_answers_stops_and_releases_memory(talk):
    work = talk.generate(DEMO, dict.fromkeys(SLOTS, "The sky is"), GenerateSpec(max_new_tokens=8, greedy=True))
    answers = work.wait().answers
    assert answers["left"].tokens == answers["right"].tokens
    assert talk.seating.seats["left"].portrait == talk.seating.seats["right"].portrait

    work = talk.generate(DEMO, dict.fromkeys(SLOTS, "The sky is"), LONG)
    until(lambda: all(answer.timing.tokens > 3 for answer in work.progress.answers.values()))
    begun = time.monotonic()
    talk.stop(work)
    last = work.wait()
    assert last.stopped and {answer.reason for answer in last.answers.values()} == {"stopped"}
    assert time.monotonic() - begun < 3

    talk.unload().wait()
    assert not talk.seating.seats
    assert talk.seating.after.taken < talk.seating.before.taken - 150e6


@pytest.mark.slow
def test_a_load_is_canceled_and_the_process_continues(talk):
    process = talk._process
    work = talk.load({"left": ModelRequest(model_id="demo", dtype="float32")})
    until(lambda: work.progress.slot == "left")
    talk.stop(work)
    last = work.wait()
    assert last.stopped and last.ended
    assert not talk.seating.seats
    assert talk.load(DEMO).wait().answers["left"].failure == ""
    assert process is None or talk._process is process


@pytest.mark.slow
def test_a_request_stopped_while_waiting_never_starts(talk):
    first = talk.generate(DEMO, dict.fromkeys(SLOTS, "The sky is"), LONG)
    second = talk.generate(DEMO, dict.fromkeys(SLOTS, "The sky is"), LONG)
    talk.stop(second)
    until(lambda: first.progress.answers["right"].timing.tokens > 1)
    talk.stop(first)
    assert second.wait().answers["left"].tokens == ()
