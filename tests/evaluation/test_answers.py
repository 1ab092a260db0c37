"""Outputs are greedy, use the chat template if there is one, and respect the token limit."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lsprism.errors import SpecError
from lsprism.evaluation.answers import generate_answers
from lsprism.evaluation.scoring import score_task
from lsprism.evaluation.tasks import TaskPrompt, load_task
from lsprism.models.load import load
from lsprism.models.source import resolve

PROMPTS = [
    TaskPrompt(id="first", prompt="the river sings", max_new_tokens=6),
    TaskPrompt(id="second", prompt="two stone walks over a river", max_new_tokens=3),
]


@pytest.fixture
def loaded(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.eos_token = None  # so that only the token limit ends an output
    return SimpleNamespace(model=model, tokenizer=tokenizer)


def by_transformers(loaded, ids, count):
    asked = torch.tensor([ids])
    seen = torch.ones_like(asked)
    whole = loaded.model.generate(asked, attention_mask=seen, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return tuple(whole[0, len(ids) :].tolist())


def test_chat_template_is_used_where_there_is_one(loaded):
    for prompt, found in zip(PROMPTS, generate_answers(loaded, PROMPTS), strict=True):
        messages = [{"role": "user", "content": prompt.prompt}]
        ids = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert found.tokens == by_transformers(loaded, ids, prompt.max_new_tokens)
        assert found.text == loaded.tokenizer.decode(found.tokens, skip_special_tokens=True)
        assert found.reason == "length"


def test_without_template_the_model_continues_the_prompt(loaded):
    loaded.tokenizer.chat_template = None
    ids = loaded.tokenizer(PROMPTS[0].prompt)["input_ids"]
    assert next(generate_answers(loaded, PROMPTS)).tokens == by_transformers(loaded, ids, 6)


def test_a_common_token_limit_replaces_those_of_the_prompts(loaded):
    assert [len(found.tokens) for found in generate_answers(loaded, PROMPTS)] == [6, 3]
    assert [len(found.tokens) for found in generate_answers(loaded, PROMPTS, max_new_tokens=4)] == [4, 4]


def test_end_token_counts_and_is_not_shown(loaded):
    first = next(generate_answers(loaded, PROMPTS)).tokens[0]
    loaded.model.generation_config.eos_token_id = first
    found = next(generate_answers(loaded, PROMPTS))
    assert (found.tokens, found.text, found.reason) == ((first,), "", "eos")


def test_a_prompt_that_is_too_long_is_named_before_anything_is_generated(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model, "forward", lambda *_, **__: pytest.fail("generated"))
    long = TaskPrompt(id="long-one", prompt="river " * 300)
    with pytest.raises(SpecError, match="Prompt long-one: .* context of 256.*Shorten"):
        generate_answers(loaded, [PROMPTS[0], long])


@pytest.mark.slow
def test_demo_model_against_itself_scores_one_in_every_metric():
    model = load(resolve("demo"), dtype="float32")
    task = load_task("extraction", 2)
    first, second = (list(generate_answers(model, task.prompts, max_new_tokens=8)) for _ in range(2))
    scores = score_task(task, first, second).against_baseline.scores
    assert scores.pop("first_divergence").values == [None] * 2
    for score in scores.values():
        assert score.mean == pytest.approx(1.0, abs=1e-5), score.metric
