"""Prompts that exceed a model's context are left out with a note, before any work."""

import json

import pytest
from conftest import make_model, make_tokenizer

from lsprism import evaluation_api
from lsprism.errors import SpecError
from lsprism.evaluation.model_limits import fit_evaluation
from lsprism.evaluation.tasks import Task, TaskPrompt
from lsprism.events import Finished, Notice, Stage
from lsprism.models.source import resolve
from lsprism.specs import EvaluateSpec, MeasureSpec, validate

LONG = "river " * 300  # the tiny model has positions for 256 tokens


def task(name: str, *prompts: str) -> Task:
    made = tuple(TaskPrompt(id=f"{name}-{n}", prompt=prompt) for n, prompt in enumerate(prompts))
    return Task(name=name, origin="a test", prompts=made, total=len(made))


@pytest.fixture(scope="module")
def source(tiny_folder):
    return resolve(str(tiny_folder))


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """A model whose tokenizer has a token beyond the rows of the embedding."""
    folder = make_model(tmp_path_factory.mktemp("models") / "beyond")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    return resolve(str(folder))


def test_prompts_that_fit_are_unchanged(source):
    asked, tasks = MeasureSpec(prompt_lengths=(8, 32)), [task("a", "a river"), task("b", "the stone")]
    found = fit_evaluation(asked, tasks, [source, source])
    assert (found.asked, found.tasks, found.notes) == (asked, tasks, [])


def test_a_prompt_that_is_too_long_is_left_out_with_a_note(source):
    found = fit_evaluation(MeasureSpec(measures="text"), [task("a", "a river", LONG, "the stone")], [source])
    assert [prompt.id for prompt in found.tasks[0].prompts] == ["a-0", "a-2"]
    assert "subset" in found.tasks[0].label
    assert "1 of 3 prompts were left out (a-1)" in found.notes[0] and "256" in found.notes[0]


def test_a_prompt_with_a_token_beyond_one_models_embedding_is_left_out(source, beyond):
    found = fit_evaluation(MeasureSpec(measures="text"), [task("a", "a river", "a [PAD]")], [source, beyond])
    assert [prompt.id for prompt in found.tasks[0].prompts] == ["a-0"] and "Token 24" in found.notes[0]


def test_an_empty_task_is_removed_and_nothing_left_is_an_error(source):
    found = fit_evaluation(MeasureSpec(measures="text"), [task("a", LONG), task("b", "a river")], [source])
    assert [one.name for one in found.tasks] == ["b"]
    found = fit_evaluation(MeasureSpec(measures="text,perplexity"), [task("a", LONG)], [source])
    assert found.asked.measures == ("perplexity",)
    with pytest.raises(SpecError, match="Nothing is left to evaluate. a: 1 of 1 prompts"):
        fit_evaluation(MeasureSpec(measures="text"), [task("a", LONG)], [source])


@pytest.mark.parametrize(
    ("lengths", "new", "left"),
    [((32, 256, 1024), 64, (32,)), ((1024, 32), 64, (32,)), ((32, 256), 250, None), ((192,), 64, (192,))],
)
def test_timed_prompts_leave_room_for_new_tokens(source, lengths, new, left):
    found = fit_evaluation(MeasureSpec(measures="speed,sizes", prompt_lengths=lengths, new_tokens=new), [], [source])
    assert found.asked.prompt_lengths == (left or lengths) and ("speed" in found.asked.measures) == bool(left)
    assert bool(found.notes) == (left != lengths)


def test_an_evaluation_runs_without_the_prompt_and_notes_it_first(tiny_folder, text_file, tmp_path):
    prompts = [{"prompt": LONG}, {"prompt": "a river", "max_new_tokens": 2}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    asked = {"measures": "perplexity,text", "dataset": str(text_file), "context": 16, "windows": 1}
    asked["tasks"] = str(tmp_path / "p.jsonl")
    *events, last = evaluation_api.stream_evaluate(validate(EvaluateSpec, model_id=tiny_folder, measuring=asked))
    assert isinstance(last, Finished) and last.report.perplexity
    assert [row.id for row in last.report.tasks[0].rows] == ["2"]
    notices = [n for n, event in enumerate(events) if isinstance(event, Notice) and "left out" in event.text]
    loads = [n for n, event in enumerate(events) if isinstance(event, Stage) and event.name == "load"]
    assert notices and notices[0] < loads[0] and any("left out" in note for note in last.report.notes)
