"""What a page shows of a conversation: text is text, figures are those of the worker, blind is blind."""

import re

import pytest

from lsprism.chat import (
    AnswerTiming,
    ChatAnswer,
    ChatProgress,
    Conversation,
    LoadedModels,
    LoadedSlot,
    ModelRequest,
    ModelSummary,
    Turn,
    WorkerMemory,
)
from lsprism.chat.votes import VoteCount
from lsprism.ui import chat_html
from lsprism.ui.chat_state import ChatPage, create_page, decode_page, encode_page

HOSTILE = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>{{#each a}}${alert(3)}`\0&amp;"


def portrait(name, **changes) -> ModelSummary:
    fields = {
        "model_id": name, "label": name, "kept_parameters": 80_000_000, "model_parameters": 100_000_000,
        "zeros": 0.25, "mean_rank": 12.5, "packed_layers": 7, "resident_bytes": 150_000_000, "dtype": "bfloat16",
        "device": "cpu", "chats": True, "weights_sha256": name * 20, "tokenizer_sha256": "same",
    }  # fmt: skip
    return ModelSummary(**{**fields, **changes})


def seat(name, resident=True, **changes) -> LoadedSlot:
    return LoadedSlot(
        wanted=ModelRequest(model_id=name), portrait=portrait(name, **changes), resident=resident, seconds=1.0
    )


def seating(**more) -> LoadedModels:
    seats = {"left": seat("demo", packed_layers=0, mean_rank=None), "right": seat("half")}
    return LoadedModels(
        seats=seats,
        before=WorkerMemory(taken=10**9, free=1),
        after=WorkerMemory(taken=2 * 10**9, free=3 * 10**9),
        **more,
    )


def said(*texts, speed=10.0, reason="eos") -> ChatAnswer:
    timing = AnswerTiming(tokens=len(texts), first_token_s=0.25, tokens_per_s=speed)
    return ChatAnswer(tokens=tuple(map(hash, texts)), texts=texts, timing=timing, reason=reason)


def page(left=None, right=None, prompt="Hello", **fields) -> ChatPage:
    answers = {"left": left or said("Good", " day"), "right": right or said("Good", " night", speed=15.0)}
    return ChatPage(Conversation((Turn(prompt, answers),)), **fields)


def plain(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html)


@pytest.mark.parametrize("where", ["prompt", "answer", "failure", "mark", "model"])
def test_whatever_is_said_is_shown_as_text(where):
    answer = said("Good", HOSTILE) if where in ("answer", "mark") else said("Good")
    if where == "failure":
        answer = ChatAnswer(failure=HOSTILE, reason="failed")
    one = page(answer, said("Good") if where == "answer" else None, HOSTILE if where == "prompt" else "Hello")
    html = chat_html.render_last(one, True)
    if where == "model":
        html = chat_html.render_sides(ChatPage(), LoadedModels(), {"left": HOSTILE, "right": HOSTILE})
        html += chat_html.render_sides(
            ChatPage(), LoadedModels(seats={"left": seat(HOSTILE)}), {}
        ) + chat_html.render_status(ChatProgress(f"loading {HOSTILE}"), False)
    assert "<img" not in html and "<script" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(
    "before",
    [
        ChatPage(),
        create_page(True),
        page(),
        page(ChatAnswer(failure="no memory", reason="failed"), blind=True, voted=True),
    ],
)
def test_what_the_browser_keeps_is_the_page_itself(before):
    assert decode_page(encode_page(before)) == before


@pytest.mark.parametrize("said", [None, "", "{}x", "[]", '{"blind": "perhaps"}', '{"conversation": {"turns": [1]}}'])
def test_what_is_no_page_of_ours_is_a_fresh_one(said):
    assert decode_page(said) == ChatPage()


def test_what_gradio_takes_for_a_template_is_no_template():
    assert not set("{}$`\0") & set(chat_html.render_text(HOSTILE))


def test_the_headers_are_what_the_worker_told():
    html = plain(chat_html.render_sides(ChatPage(), seating(), {}))
    for figure in ("80 million, 80%", "25.0%", "12.5", "no factors", "bfloat16, cpu", "150 MB", "halfhalf"):
        assert figure in html


def test_a_side_that_is_not_in_memory_says_what_happens_next():
    html = chat_html.render_sides(ChatPage(), LoadedModels(), {"left": "demo", "right": "/some/where/half"})
    assert html.count("loads with the first prompt") == 2
    assert "/some/where" not in html and "half" in html
    named = chat_html.render_sides(
        ChatPage(), LoadedModels(), {"right": "/run/artifact"}, {"/run/artifact": "demo, <b>hybrid"}
    )
    assert "demo, &lt;b&gt;hybrid" in named and "artifact" not in named
    stale = chat_html.render_sides(ChatPage(), seating(), {"left": "demo", "right": "another"})
    assert stale.count("loads with the first prompt") == 1, "the header of another model is never shown"
    turns = LoadedModels(seats={"left": seat("demo", resident=False)}, together=False, note="Both do not fit.")
    assert "loads on demand" in chat_html.render_sides(ChatPage(), turns, {})


def test_the_answers_part_where_the_mark_is():
    html = chat_html.render_last(page(), True)
    assert html.count("<mark") == 2
    assert "> day</mark>" in html and "> night</mark>" in html
    assert "first difference at token 2<" in html
    same = chat_html.render_last(page(right=said("Good", " day", speed=15.0)), True)
    assert "<mark" not in same and "identical outputs" in same


def test_each_side_shows_its_cost_and_who_is_faster():
    html = chat_html.render_last(page(), True)
    assert "10.0 tok/s" in html and "15.0 tok/s" in html and html.count("first token 0.25 s") == 2
    assert "B decodes 1.50x as fast" in html
    assert "A decodes 2.00x as fast" in chat_html.render_last(page(said("a", speed=20.0), said("a", speed=10.0)), True)


def test_what_was_stopped_says_so_and_keeps_its_text():
    html = chat_html.render_last(page(said("Good", reason="stopped")), True)
    assert "Good" in html and "stopped" in html


def test_blind_hides_names_figures_and_headers_until_the_vote():
    one = page(blind=True, crossed=True)
    hidden = chat_html.render_last(one, True) + chat_html.render_sides(
        one, seating(), {"left": "demo", "right": "half"}
    )
    hidden += chat_html.render_status(ChatProgress("loading half", slot="right"), one.hidden)
    assert "half" not in hidden and "demo" not in hidden and "tok/s" not in hidden and "million" not in hidden
    voted = page(blind=True, crossed=True, voted=True)
    assert "B decodes" not in chat_html.render_last(voted, True) and "A decodes 1.50" in chat_html.render_last(
        voted, True
    )
    names = chat_html.render_sides(voted, seating(), {})
    assert names.index("half") < names.index("demo"), "crossed: A is the right side"


def test_a_blind_vote_ends_its_conversation():
    voted = page(blind=True, voted=True)
    assert voted.prepare_question().conversation == Conversation()
    assert page(voted=True).prepare_question().conversation.turns, "with names in sight it goes on"


def test_sides_are_shuffled_only_where_names_are_hidden():
    assert {create_page(True).crossed for _ in range(60)} == {True, False}
    assert not any(create_page(False).crossed for _ in range(60))


def test_only_two_whole_answers_can_be_voted_on():
    assert page().can_vote
    assert not page(voted=True).can_vote
    assert not page(ChatAnswer(failure="No memory.", reason="failed")).can_vote
    assert not page(said("Good", reason=None)).can_vote
    assert not ChatPage().can_vote


def test_a_long_prompt_is_not_sent_to_the_page_again_and_again():
    html = chat_html.render_last(page(prompt="a" * 100_000), True)
    assert len(html) < 5000 and "98,000 more characters" in html


def test_memory_before_and_after_and_taking_turns():
    html = chat_html.render_memory(seating(together=False, note="Both do not fit."))
    assert "1 GB → 2 GB, 3 GB free" in html and "Both do not fit." in html
    assert chat_html.render_memory(LoadedModels()) == ""


def test_the_tally_in_words():
    html = plain(chat_html.render_votes(VoteCount(left=4, right=6, equal=1), {"left": "demo", "right": "half"}, True))
    assert "11 blind votes" in html and "half wins 60% of the decided votes (95% interval 31% to 83%)" in html
    assert "No blind votes" in chat_html.render_votes(VoteCount(), {}, True)


def test_two_models_of_one_name_are_told_apart():
    seats = {"left": seat("half", weights_sha256="aaaa1"), "right": seat("half", weights_sha256="bbbb1")}
    assert chat_html.make_labels(LoadedModels(seats=seats)) == {"left": "half (aaaa)", "right": "half (bbbb)"}
