"""This end of the worker: news become progress; a stop is certain; a death is told, and a new process begins."""

import json
import sys
import time

import pytest

from lsprism.errors import WorkError
from lsprism.specs import GenerateSpec
from lsprism.talk import SLOTS, Seating, Talk, Wanted, talk
from lsprism.talk.talk import Progress

SEATS = dict.fromkeys(SLOTS, Wanted(model_id="demo"))
PROMPTS = dict.fromkeys(SLOTS, "Hello")
MEMORY = {"taken": 1, "free": 2}


def program(*news: dict, then: str = "pass") -> tuple[str, ...]:
    """A worker that answers each command with this news, whose work is the command's, and then does something."""
    lines = [json.dumps(item) for item in news]
    script = (
        "import sys, os, time, json\n"
        "for line in sys.stdin:\n"
        "  work = json.loads(line)['work']\n"
        f"  for text in {lines!r}:\n"
        "    print(json.dumps({**json.loads(text), 'work': work}), flush=True)\n"
        f"  {then}\n"
    )
    return (sys.executable, "-S", "-E", "-c", script)


@pytest.fixture
def talking():
    made = []

    def make(*news, **more) -> Talk:
        made.append(Talk(program(*news, **more)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def words(slot, *texts, reason=None) -> dict:
    timing = {"tokens": len(texts), "first_token_s": 0.1, "tokens_per_s": 9.0}
    fields = {"tokens": list(range(len(texts))), "texts": texts, "timing": timing, "reason": reason}
    return {"kind": "words", "slot": slot, **fields}


ENDED = {"kind": "ended"}


def test_news_become_answers(talking):
    one = talking(words("left", "Good"), words("right", "Oh"), words("left", " day", reason="eos"), ENDED)
    last = one.ask(SEATS, PROMPTS, GenerateSpec()).wait()
    assert {slot: answer.text for slot, answer in last.answers.items()} == {"left": "Good day", "right": "Oh"}
    assert last.answers["left"].reason == "eos" and last.answers["right"].reason is None
    assert last.ended and not last.stopped


def test_a_failure_stands_at_its_side(talking):
    failed = {"kind": "failed", "slot": "left", "message": "No memory.", "hint": "Close a program."}
    last = talking(failed, ENDED).load(SEATS).wait()
    assert last.answers["left"].failure == "No memory. Close a program."
    assert not last.answers["right"].failure


def test_seats_are_what_was_told_last(talking):
    told = {"kind": "seats", "seats": {}, "together": False, "note": "Turns.", "before": MEMORY, "after": MEMORY}
    one = talking(told, ENDED)
    one.unload().wait()
    assert (one.seating.together, one.seating.note, one.seating.after.free) == (False, "Turns.", 2)


@pytest.mark.parametrize("then, said", [("os.kill(os.getpid(), 9)", "memory ran out"), ("os._exit(3)", "code 3")])
def test_a_death_is_told_and_the_next_request_starts_anew(talking, then, said):
    one = talking(words("left", "Half"), then=then)
    work = one.ask(SEATS, PROMPTS, GenerateSpec())
    with pytest.raises(WorkError, match=said):
        work.wait()
    assert work.progress.answers["left"].text == "Half", "what was said stays"
    one._program = program(ENDED)
    assert one.load(SEATS).wait().ended


def test_a_stop_that_is_not_heard_ends_the_process(talking, monkeypatch):
    monkeypatch.setattr(talk, "PATIENCE_S", 0.1)
    one = talking({"kind": "began", "what": "loading"}, then="time.sleep(60)")
    work = one.load(SEATS)
    next(now for now in work.watch(0) if now.what == "loading")
    one.stop(work)
    begun = time.monotonic()
    with pytest.raises(WorkError, match="did not stop in time"):
        work.wait()
    assert time.monotonic() - begun < 10
    assert one.seating == Seating()


def test_what_has_not_begun_is_stopped_at_once_and_what_comes_later_is_not_heard(talking):
    one = talking(words("left", "Good"), ENDED, then="time.sleep(0.2)")
    first, second = one.load(SEATS), one.ask(SEATS, PROMPTS, GenerateSpec())
    one.stop(second)
    assert second.progress.stopped and second.progress.ended
    assert first.wait().ended and one.load(SEATS).wait().ended, "the process goes on"
    assert second.progress.answers["left"].text == ""


def test_whoever_watches_may_leave_though_nothing_happens(talking, monkeypatch):
    monkeypatch.setattr(talk, "ALIVE_S", 0.05)
    stream = talking(then="time.sleep(60)").load(SEATS).watch(0)
    assert next(stream) is next(stream)


def test_a_line_that_is_no_news_is_passed_over(talking):
    assert talking({"kind": "gossip"}, ENDED).load(SEATS).wait().ended


def test_watching_ends_with_the_end_and_begins_with_what_is_there(talking):
    work = talking(words("left", "a"), ENDED).ask(SEATS, PROMPTS, GenerateSpec())
    seen = list(work.watch(every_s=0))
    assert seen[-1].ended and all(isinstance(one, Progress) and not one.ended for one in seen[:-1])
    assert list(work.watch())[-1] is seen[-1]


def test_a_program_that_is_not_there_is_a_clear_refusal():
    with pytest.raises(WorkError, match="cannot be started"):
        Talk(("/nowhere/python",)).load(SEATS)
