"""Input tokens: template or plain text, a single BOS, and errors with a next step."""

import pytest
import torch
from conftest import make_tokenizer
from odd_tokenizers import wrapping
from tokenizers import Regex
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split

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
def begins():
    """A tokenizer that adds <s> to every text, and whose template contains it too."""
    tokenizer = wrapping("<s> $A")
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


def test_a_text_becomes_a_user_message_if_there_is_a_template(tokenizer):
    assert words(tokenizer, encode(tokenizer, "red river")) == "<unk> . red river . then"
    assert torch.equal(encode(tokenizer, "red river"), encode(tokenizer, "red river", chat=True))


def test_messages_are_rendered_in_order_with_a_generation_prompt(tokenizer):
    assert words(tokenizer, encode(tokenizer, TALK)) == "a . red river . the . blue stone . then"


def test_completion_continues_the_text(tokenizer, plain):
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
def test_bos_is_added_once(begins, prompt, chat, expected):
    assert words(begins, encode(begins, prompt, chat)) == expected


def test_an_empty_prompt_is_bos_or_an_error(plain):
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


def test_bos_is_added_if_the_template_omits_it(begins):
    begins.chat_template = make_tokenizer().chat_template
    assert words(begins, encode(begins, "red river")) == "<s> <unk> . red river . then"


@pytest.mark.parametrize("chat", [True, False])
def test_no_end_tokens_are_appended_to_the_prompt(chat):
    ends = wrapping("<s> $A </s>")
    assert ends("red river")["input_ids"][-1] == ends.eos_token_id
    assert words(ends, encode(ends, "red river", chat)).split()[-1] == ("then" if chat else "river")
    assert words(ends, encode(ends, "red river </s>", chat=False)) == "<s> red river </s>", "it is part of the prompt"


PARTS = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
    "{% endfor %} . {% endfor %}then "
)


@pytest.mark.parametrize("prompt", ["red river", "a", "then"])
def test_a_template_that_requires_content_parts_gets_them(tokenizer, prompt):
    tokenizer.chat_template = PARTS
    assert words(tokenizer, encode(tokenizer, prompt)) == f"{prompt} . then"


@pytest.mark.parametrize(
    "template",
    [
        "then",
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}then",
        "{% for m in messages %}{{ m['content'][:4] }}{% endfor %}",
        "{{ messages[-1]['content'] }}",  # drops the system prompt
    ],
)
def test_a_template_that_drops_the_prompt_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    messages = [{"role": "system", "content": "then"}, {"role": "user", "content": "red river"}]
    with pytest.raises(SpecError, match="drops the prompt") as caught:
        encode(tokenizer, messages)
    assert "plain completion" in caught.value.hint
    assert words(tokenizer, encode(tokenizer, messages, chat=False)) == "then red river"


def test_a_template_may_drop_parts_of_assistant_messages(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'].split('. ')[-1] if m['role'] == 'assistant' else m['content'] }} "
        "{% endfor %}"
    )
    contents = {"user": "a", "assistant": "so . red", "system": "the"}
    messages = [{"role": role, "content": content} for role, content in contents.items()]
    assert words(tokenizer, encode(tokenizer, messages)) == "a red the"


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] + 1 }}", "{{ messages[9]['a']['b'] }}", "{% if %}"])
def test_a_template_error_is_reported(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(SpecError, match="chat template") as caught:
        encode(tokenizer, "red river")
    assert "\n" not in caught.value.message


def test_the_default_of_several_templates_is_used(tokenizer):
    tokenizer.chat_template = {"rag": "then", "default": "{{ messages[0]['content'] }}"}
    assert words(tokenizer, encode(tokenizer, "red river")) == "red river"
    tokenizer.chat_template = {"chat": "{{ messages[0]['content'] }} then"}
    assert words(tokenizer, encode(tokenizer, "red river")) == "red river then"


def test_several_templates_without_a_default_are_listed(tokenizer):
    tokenizer.chat_template = {"rag": "then", "tool_use": "{{ messages[0]['content'] }}"}
    for chat in (None, True):
        with pytest.raises(SpecError, match="rag, tool_use") as caught:
            encode(tokenizer, "red river", chat)
        assert "chat_template.jinja" in caught.value.hint
    assert words(tokenizer, encode(tokenizer, "red river", chat=False)) == "red river"


@pytest.mark.parametrize("chat", [True, False])
def test_unpaired_surrogates_are_refused_and_pairs_combined(tokenizer, chat):
    with pytest.raises(SpecError, match=r"unpaired surrogate '\\ud83d' at character 5") as caught:
        encode(tokenizer, "red \ud83d river", chat)
    assert caught.value.message.isascii()
    whole, halves = "red \N{GRINNING FACE} river", "red \ud83d\ude00 river"
    assert encode(tokenizer, halves, chat).tolist() == encode(tokenizer, whole, chat).tolist()


def test_a_prompt_without_a_known_word_is_refused(plain):
    plain.backend_tokenizer.model = WordLevel({"<s>": 1, "red": 4}, unk_token="<unk>")
    plain.backend_tokenizer.pre_tokenizer = Split(" ", "removed")
    plain.backend_tokenizer.normalizer = Replace(Regex("[^a-z ]"), "")
    with pytest.raises(SpecError, match="no token for any part"):
        encode(plain, "4 2")
