"""The chat client: events become progress, stops are certain, and a crash is reported and followed by a restart."""

import json
import sys
import time

import pytest

from lsprism.chat import SLOTS, ChatClient, LoadedModels, ModelRequest, client
from lsprism.chat.client import ChatProgress
from lsprism.errors import WorkError
from lsprism.specs import GenerateSpec

SEATS = dict.fromkeys(SLOTS, ModelRequest(model_id="demo"))
PROMPTS = dict.fromkeys(SLOTS, "Hello")
MEMORY = {"taken": 1, "free": 2}


def program(*news: dict, then: str = "pass") -> tuple[str, ...]:
    """A worker that answers each command with these events, with the command's number, and then runs `then`."""
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

    def make(*news, **more) -> ChatClient:
        made.append(ChatClient(program(*news, **more)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def words(slot, *texts, reason=None) -> dict:
    timing = {"tokens": len(texts), "first_token_s": 0.1, "tokens_per_s": 9.0}
    fields = {"tokens": list(range(len(texts))), "texts": texts, "timing": timing, "reason": reason}
    return {"kind": "words", "slot": slot, **fields}


ENDED = {"kind": "ended"}


def test_events_become_answers(talking):
    one = talking(words("left", "Good"), words("right", "Oh"), words("left", " day", reason="eos"), ENDED)
    last = one.generate(SEATS, PROMPTS, GenerateSpec()).wait()
    assert {slot: answer.text for slot, answer in last.answers.items()} == {"left": "Good day", "right": "Oh"}
    assert last.answers["left"].reason == "eos" and last.answers["right"].reason is None
    assert last.ended and not last.stopped


def test_an_error_is_assigned_to_its_side(talking):
    failed = {"kind": "failed", "slot": "left", "message": "No memory.", "hint": "Close a program."}
    last = talking(failed, ENDED).load(SEATS).wait()
    assert last.answers["left"].failure == "No memory. Close a program."
    assert not last.answers["right"].failure


def test_the_last_report_of_loaded_models_counts(talking):
    told = {"kind": "seats", "seats": {}, "together": False, "note": "Turns.", "before": MEMORY, "after": MEMORY}
    one = talking(told, ENDED)
    one.unload().wait()
    assert (one.seating.together, one.seating.note, one.seating.after.free) == (False, "Turns.", 2)


@pytest.mark.parametrize("then, said", [("os.kill(os.getpid(), 9)", "out of memory"), ("os._exit(3)", "code 3")])
def test_a_crash_is_reported_and_the_next_request_restarts(talking, then, said):
    one = talking(words("left", "Half"), then=then)
    work = one.generate(SEATS, PROMPTS, GenerateSpec())
    with pytest.raises(WorkError, match=said):
        work.wait()
    assert work.progress.answers["left"].text == "Half", "the partial answer is kept"
    one._program = program(ENDED)
    assert one.load(SEATS).wait().ended


def test_a_stop_without_reaction_kills_the_process(talking, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_S", 0.1)
    one = talking({"kind": "began", "what": "loading"}, then="time.sleep(60)")
    work = one.load(SEATS)
    next(now for now in work.iter_progress(0) if now.what == "loading")
    one.stop(work)
    begun = time.monotonic()
    with pytest.raises(WorkError, match="did not stop in time"):
        work.wait()
    assert time.monotonic() - begun < 10
    assert one.seating == LoadedModels()


def test_a_waiting_request_is_stopped_at_once(talking):
    one = talking(words("left", "Good"), ENDED, then="time.sleep(0.2)")
    first, second = one.load(SEATS), one.generate(SEATS, PROMPTS, GenerateSpec())
    one.stop(second)
    assert second.progress.stopped and second.progress.ended
    assert first.wait().ended and one.load(SEATS).wait().ended, "the process continues"
    assert second.progress.answers["left"].text == ""


def test_watch_yields_without_changes(talking, monkeypatch):
    monkeypatch.setattr(client, "ALIVE_S", 0.05)
    stream = talking(then="time.sleep(60)").load(SEATS).iter_progress(0)
    assert next(stream) is next(stream)


def test_an_invalid_line_is_skipped(talking):
    assert talking({"kind": "gossip"}, ENDED).load(SEATS).wait().ended


def test_watch_starts_with_the_current_progress_and_ends(talking):
    work = talking(words("left", "a"), ENDED).generate(SEATS, PROMPTS, GenerateSpec())
    seen = list(work.iter_progress(every_s=0))
    assert seen[-1].ended and all(isinstance(one, ChatProgress) and not one.ended for one in seen[:-1])
    assert list(work.iter_progress())[-1] is seen[-1]


def test_a_missing_program_is_a_clear_error():
    with pytest.raises(WorkError, match="cannot be started"):
        ChatClient(("/nowhere/python",)).load(SEATS)
