"""What happens on a click in the tab Chat, with a talk that answers from a list."""

import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from test_chat_page import said, seating

from lsprism.chat import ChatAnswer, ChatProgress
from lsprism.chat.client import ChatTask
from lsprism.runs import RunRequest, RunStore
from lsprism.specs import GenerateSpec
from lsprism.ui import chat_form, chat_tab
from lsprism.ui.chat_state import ChatPage
from lsprism.ui.context import Context
from lsprism.ui.texts import chat as texts

VALUES = {
    "left": "demo", "right": "half", "blind": False, "mode": chat_form.CHAT, "system": "Be kind.", "greedy": True,
    "max_new_tokens": 8, "seed": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1,
    "device": "auto", "dtype": "auto", "prompt": "Hello",
}  # fmt: skip


class FakeTalk:
    """Each piece of work goes through these moments; the last one has ended."""

    def __init__(self, *moments: ChatProgress):
        self.moments, self.seating = moments, seating()
        self.asked, self.stopped = [], []

    def generate(self, seats, prompts, spec):
        self.asked.append((seats, prompts, spec))
        return self._work()

    def load(self, seats):
        self.asked.append(seats)
        return self._work()

    unload = _work = lambda self, *_: FakeWork(self.moments)

    def stop(self, work):
        self.stopped.append(work)


class FakeWork(ChatTask):
    def __init__(self, moments):
        super().__init__(1, (), "", threading.Condition())
        self.moments = moments

    def iter_progress(self, every_s=0.0):
        yield from self.moments


HALF = ChatProgress("answering", answers={"left": said("Good", reason=None), "right": ChatAnswer()})
DONE = ChatProgress("answering", answers={"left": said("Good", " day"), "right": said("Good", " night")}, ended=True)


@pytest.fixture
def handlers(tmp_path):
    return chat_tab.ChatHandlers(SimpleNamespace(runs=RunStore(tmp_path)), FakeTalk(HALF, DONE))


def shown(steps) -> dict:
    """All that was told, the later over the earlier."""
    told = {}
    for step in steps:
        told |= step
    return told


def test_a_prompt_goes_to_both_with_all_settings(handlers):
    shown(handlers.handle_send(VALUES, ChatPage(), "me"))
    seats, prompts, spec = handlers.talk.asked[0]
    assert {slot: seat.model_id for slot, seat in seats.items()} == {"left": "demo", "right": "half"}
    assert prompts["left"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert spec == GenerateSpec(
        max_new_tokens=8, greedy=True, temperature=0.7, top_p=0.9, seed=3, repetition_penalty=1.1
    )


def test_it_streams_and_keeps_what_was_said(handlers):
    steps = list(handlers.handle_send(VALUES, ChatPage(), "me"))
    assert "Hello" in steps[0]["now"] and steps[0]["prompt"] == "", "the prompt is shown at once"
    assert "Good" in steps[0]["now"] and "night" not in steps[0]["now"]
    assert [step["stop"].interactive for step in steps] == [True, False]
    assert steps[0].keys() - {"prompt"} == steps[1].keys() - {"kept"} and "prompt" not in steps[1], (
        "what is typed meanwhile stays"
    )
    told = shown(steps)
    assert [turn.prompt for turn in told["page"].conversation.turns] == ["Hello"]
    assert told["vote"].visible and "No open votes" in told["status"]


def test_the_next_prompt_goes_on_from_each_sides_own_answer(handlers):
    page = shown(handlers.handle_send(VALUES, ChatPage(), "me"))["page"]
    told = shown(handlers.handle_send({**VALUES, "prompt": "And?"}, page, "me"))
    prompts = handlers.talk.asked[1][1]
    assert [prompts[slot][2]["content"] for slot in ("left", "right")] == ["Good day", "Good night"]
    assert "Hello" in told["past"] and "And?" not in told["past"]


def test_a_completion_is_the_prompt_alone(handlers):
    page = shown(handlers.handle_send(VALUES, ChatPage(), "me"))["page"]
    shown(handlers.handle_send({**VALUES, "mode": texts.COMPLETION, "prompt": "Once"}, page, "me"))
    assert handlers.talk.asked[1][1] == {"left": "Once", "right": "Once"}


def test_an_empty_prompt_asks_nothing(handlers):
    assert list(handlers.handle_send({**VALUES, "prompt": " \n"}, ChatPage(), "me")) == []


@pytest.mark.parametrize("wrong", [{"left": " "}, {"top_p": 3}, {"device": "abacus"}, {"max_new_tokens": None}])
def test_a_wrong_setting_is_told_and_nothing_begins(handlers, wrong):
    with pytest.raises(gr.Error):
        list(handlers.handle_send({**VALUES, **wrong}, ChatPage(), "me"))
    assert not handlers.talk.asked


def test_again_is_the_same_prompt_with_the_next_seed(handlers):
    page = shown(handlers.handle_send(VALUES, ChatPage(), "me"))["page"]
    told = shown(handlers.handle_again({**VALUES, "prompt": "something else"}, page, "me"))
    assert told["seed"] == 4 and handlers.talk.asked[1][2].seed == 4
    assert [turn.prompt for turn in told["page"].conversation.turns] == ["Hello"]
    assert "prompt" not in told, "what is being written stays"
    assert list(handlers.handle_again(VALUES, ChatPage(), "me")) == []


def test_edit_gives_the_prompt_back_and_undo_does_not(handlers):
    page = shown(handlers.handle_send(VALUES, ChatPage(), "me"))["page"]
    told = handlers.edit(page, VALUES)
    assert told["prompt"] == "Hello" and not told["page"].conversation.turns
    assert "prompt" not in handlers.undo(page, VALUES)
    assert "No messages yet" in handlers.clear(page, VALUES)["now"]


def test_a_page_that_is_closed_stops_its_work(handlers):
    stream = handlers.handle_send(VALUES, ChatPage(), "me")
    next(stream)
    work = handlers.works["me"]
    stream.close()
    assert handlers.talk.stopped == [work] and "me" not in handlers.works


def test_stop_reaches_the_work_of_its_own_page(handlers):
    stream = handlers.handle_send(VALUES, ChatPage(), "me")
    next(stream)
    handlers.stop("another")
    assert not handlers.talk.stopped
    handlers.stop("me")
    assert handlers.talk.stopped == [handlers.works["me"]]


def test_a_death_of_the_worker_is_told_and_the_text_stays(tmp_path):
    died = ChatProgress("answering", answers=HALF.answers, ended=True, failure="memory ran out <b>")
    handlers = chat_tab.ChatHandlers(SimpleNamespace(runs=RunStore(tmp_path)), FakeTalk(HALF, died))
    told = shown(handlers.handle_send(VALUES, ChatPage(), "me"))
    assert "memory ran out &lt;b&gt;" in told["status"] and "Good" in told["now"]
    assert not told["vote"].visible


def test_a_load_that_failed_says_so_once(tmp_path):
    failed = ChatProgress(
        "loading", answers=dict.fromkeys(("left", "right"), ChatAnswer(failure="No memory.")), ended=True
    )
    handlers = chat_tab.ChatHandlers(SimpleNamespace(runs=RunStore(tmp_path)), FakeTalk(failed))
    assert shown(handlers.handle_load(VALUES, ChatPage(), "me"))["status"].count("No memory.") == 1


def test_a_vote_counts_for_the_model_behind_the_letter_and_reveals_it(handlers):
    blind = ChatPage(blind=True, crossed=True)
    page = shown(handlers.handle_send({**VALUES, "blind": True}, blind, "me"))["page"]
    assert "half" not in shown([handlers.show(page, VALUES)])["sides"]
    told = handlers.handle_vote("a", VALUES, page)
    (vote,) = handlers.votes.read_all()
    assert (vote.verdict, vote.blind) == ("right", True)
    assert "1 blind vote:" in told["status"] and "half" in told["sides"] and not told["vote"].visible
    with pytest.raises(gr.Error):
        handlers.handle_vote("a", VALUES, told["page"])


def test_a_page_that_is_loaded_again_goes_on_where_it_was(handlers):
    *_, last = moments = list(handlers.handle_send(VALUES, ChatPage(), "me"))
    assert [("kept" in told) for told in moments] == [False] * (len(moments) - 1) + [True]  # once, when it is whole
    again = handlers.restore(last["kept"], VALUES)
    assert again["page"] == last["page"] and "night" in again["now"]
    emptied = handlers.clear(again["page"], VALUES)
    assert not handlers.restore(emptied["kept"], VALUES)["page"].conversation.turns


def test_what_is_written_down_of_a_vote_holds_no_words(handlers):
    page = shown(handlers.handle_send({**VALUES, "prompt": "a secret"}, ChatPage(), "me"))["page"]
    handlers.handle_vote("equal", VALUES, page)
    assert b"secret" not in handlers.votes.path.read_bytes() and b"Good" not in handlers.votes.path.read_bytes()


def test_an_opened_run_brings_its_pair(handlers, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text("{}")
    order = RunRequest(
        verb="compress", artifact=made, settings={"model_id": "demo", "method": "wanda", "sparsity": 0.5}
    )
    run = handlers.runs.create(handlers.runs.create_id(), order)
    assert handlers.select_run(run.id) == (gr.skip(), gr.skip()), "not done yet"
    handlers.runs.update(run.id, lambda run: run.replace(state="done"))
    assert handlers.select_run(run.id) == ("demo", str(made))
    left, _, seen = handlers.update_choices("")
    assert ("demo, wanda at 0.5 · made", str(made)) in left.choices
    assert handlers.update_choices(seen) == (gr.skip(),) * 3


def test_building_the_page_starts_no_process(tmp_path):
    with gr.Blocks() as blocks, gr.Tabs() as tabs, gr.Tab("One"):
        chat_tab.build(Context(RunStore(tmp_path), blocks, tabs, gr.State(""), gr.BrowserState("")))
    assert not [thread for thread in threading.enumerate() if thread.name == "lsprism-talk"]
