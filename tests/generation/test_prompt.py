"""What the model reads: template or plain text, one beginning of text, and errors that say what to do."""

import pytest
import torch
from conftest import make_tokenizer
from tokenizers.processors import TemplateProcessing

from lsprism.errors import SpecError
from lsprism.generation.prompt import encode

TALK = [
    {"role": "a", "content": "red river"},
    {"role": "the", "content": "blue stone"},
]


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def begins(tokenizer):
    """A tokenizer that writes <s> before every text, whose template writes it too."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.chat_template = "{{ bos_token }} " + tokenizer.chat_template
    return tokenizer


@pytest.fixture
def plain(tokenizer):
    tokenizer.chat_template = None
    return tokenizer


def words(tokenizer, input_ids):
    assert input_ids.dtype == torch.int64
    assert input_ids.shape[0] == 1
    return " ".join(tokenizer.convert_ids_to_tokens(input_ids[0].tolist()))


def test_a_text_becomes_a_user_message_where_there_is_a_template(tokenizer):
    assert words(tokenizer, encode(tokenizer, "red river")) == "<unk> . red river . then"
    assert torch.equal(encode(tokenizer, "red river"), encode(tokenizer, "red river", chat=True))


def test_messages_are_rendered_in_order_and_the_answer_is_asked_for(tokenizer):
    assert words(tokenizer, encode(tokenizer, TALK)) == "a . red river . the . blue stone . then"


def test_completion_goes_on_from_the_text(tokenizer, plain):
    assert words(tokenizer, encode(tokenizer, "red river", chat=False)) == "red river"
    assert words(plain, encode(plain, "red river")) == "red river"
    assert words(plain, encode(plain, TALK)) == "red river blue stone"


@pytest.mark.parametrize(
    ("prompt", "chat", "expected"),
    [
        ("red river", False, "<s> red river"),
        ("red river", True, "<s> <unk> . red river . then"),
        ("<s> red river", False, "<s> red river"),
        ("", False, "<s>"),
    ],
)
def test_a_text_begins_once(begins, prompt, chat, expected):
    assert words(begins, encode(begins, prompt, chat)) == expected


def test_an_empty_prompt_is_the_beginning_of_a_text_or_an_error(plain):
    assert words(plain, encode(plain, "")) == "<s>"
    plain.bos_token = None
    with pytest.raises(SpecError, match="empty") as caught:
        encode(plain, "")
    assert caught.value.hint


def test_chat_without_a_template_is_an_error(plain):
    with pytest.raises(SpecError, match="no chat template") as caught:
        encode(plain, "red river", chat=True)
    assert "completion" in caught.value.hint


def test_messages_that_the_template_refuses_are_an_error(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SpecError, match="a, the: roles must alternate"):
        encode(tokenizer, TALK)
