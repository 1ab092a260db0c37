"""Messages of each side, and the first difference between two answers."""

import pytest

from lsprism.chat import AnswerTiming, ChatAnswer, Conversation, Turn, compute_speed_up, find_divergence
from lsprism.chat.messages import TokenChunk


def said(*texts, tokens=None, **fields) -> ChatAnswer:
    return ChatAnswer(tokens=tuple(tokens or map(hash, texts)), texts=texts, **fields)


def test_each_side_gets_its_own_answers():
    conversation = Conversation().add_turn(Turn("Hello", {"left": said("Hi"), "right": said("Good", " day")}))
    assert conversation.build_messages("right", "And?", "Be kind.") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "And?"},
    ]
    assert conversation.build_messages("left", "And?")[1]["content"] == "Hi"


def test_a_turn_without_an_answer_is_left_out():
    conversation = Conversation((Turn("Hello", {"left": ChatAnswer(failure="No memory.")}),))
    assert conversation.build_messages("left", "Again") == [{"role": "user", "content": "Again"}]


def test_undo_returns_the_prompt():
    conversation = Conversation((Turn("one"), Turn("two")))
    assert conversation.remove_last() == (Conversation((Turn("one"),)), "two")
    assert Conversation().remove_last() == (Conversation(), "")


def test_answers_are_extended_by_new_tokens():
    words = TokenChunk(
        work=1, slot="left", tokens=[5, 6], texts=["a", "b"], timing=AnswerTiming(tokens=2), reason="eos"
    )
    answer = said("x", tokens=[4]).add_chunk(words)
    assert (answer.tokens, answer.text, answer.reason, answer.timing.tokens) == ((4, 5, 6), "xab", "eos", 2)


def test_the_first_different_token_is_found():
    left, right = said("The", " sky", " is", " blue"), said("The", " sky", " was")
    found = find_divergence({"left": left, "right": right}, same_tokens=True)
    assert found.agreed == 2
    assert left.text[slice(*found.places["left"])] == " is"
    assert right.text[slice(*found.places["right"])] == " was"


def test_a_shorter_answer_is_not_a_difference():
    assert find_divergence({"left": said("The", " sky"), "right": said("The")}, same_tokens=True) is None
    assert find_divergence({"left": said("The")}, same_tokens=True) is None


def test_an_early_end_is_a_difference():
    left, right = said("Yes", "", tokens=[1, 2]), said("Yes", ".", tokens=[1, 3])
    found = find_divergence({"left": left, "right": right}, same_tokens=True)
    assert found.places == {"left": (3, 3), "right": (3, 4)}


def test_a_token_that_was_never_computed_is_not_a_difference():
    left, right = said("Yes", "", tokens=[1, None]), said("Yes", ".", tokens=[1, 3])
    assert find_divergence({"left": left, "right": right}, same_tokens=True) is None


def test_different_tokenizers_are_compared_by_text():
    left, right = said("The", " sky", " is"), said("The s", "ky w", "as")
    found = find_divergence({"left": left, "right": right}, same_tokens=False)
    assert left.text[slice(*found.places["left"])] == " is"
    assert right.text[slice(*found.places["right"])] == "ky w"


def test_speed_up_is_right_over_left():
    fast, slow = ChatAnswer(timing=AnswerTiming(tokens_per_s=30.0)), ChatAnswer(timing=AnswerTiming(tokens_per_s=20.0))
    assert compute_speed_up({"left": slow, "right": fast}) == pytest.approx(1.5)
    assert compute_speed_up({"left": slow, "right": ChatAnswer()}) is None
