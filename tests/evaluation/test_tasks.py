"""Tasks: built-in prompts are valid, user files work the same way, and Hub datasets become prompts."""

import json

import datasets
import huggingface_hub
import pytest

from lsprism.errors import CorpusError, SpecError
from lsprism.evaluation.answer_checks import is_right
from lsprism.evaluation.hub_tasks import HUB_TASKS, MOST_WORDS
from lsprism.evaluation.tasks import TASKS, Task, TaskPrompt, load_task

NEWS = {"article": "Rain fell. " * 600, "highlights": "It rained.", "id": "x"}


def write(tmp_path, *lines, name="mine.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", TASKS)
def test_built_in_tasks_can_be_scored(name):
    task = load_task(name)
    assert len(task.prompts) >= 12
    for prompt in task.prompts:
        assert prompt.id.startswith(name)
        assert prompt.reference, prompt.id
        assert bool(prompt.checks) is (name != "summarization"), prompt.id
        assert is_right(prompt.checks, prompt.reference) is not False, prompt.id
        assert not is_right(prompt.checks, prompt.prompt), f"{prompt.id}: the prompt itself would be correct"


def test_passages_to_summarize_have_the_intended_length():
    for prompt in load_task("summarization").prompts:
        passage = prompt.prompt.partition("\n\n")[2]
        assert 80 <= len(passage.split()) <= 180
        assert len(prompt.reference.split()) < len(passage.split()) / 3


def test_a_part_of_a_task_is_labeled_as_a_subset():
    whole, part = load_task("logic"), load_task("logic", 3)
    assert part.prompts == whole.prompts[:3]
    assert part.label == f"logic (3 prompts of {len(whole.prompts)}, a subset)"
    assert "subset" not in whole.label
    assert load_task("logic", 1000) == whole


def test_users_file_works_the_same_way(tmp_path):
    first = {"id": "a", "prompt": "2 + 2?", "checks": [{"kind": "number", "value": 4}], "max_new_tokens": 8}
    second = {"prompt": "Sum up: ...", "reference": "Nothing."}
    task = load_task(write(tmp_path, first, "", second))
    assert (task.name, task.origin, task.total) == ("mine", "file mine.jsonl", 2)
    assert task.prompts[0] == TaskPrompt(**first)
    assert is_right(task.prompts[0].checks, "4")
    assert task.prompts[1] == TaskPrompt(id="2", **second)


def test_list_in_a_json_file_and_a_byte_order_mark_are_read(tmp_path):
    path = write(tmp_path, "\ufeff" + json.dumps([{"prompt": "one"}, {"prompt": "two"}]), name="mine.json")
    assert [prompt.prompt for prompt in load_task(path).prompts] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "cut', "line 3 is not JSON"),
        ("[" * 100_000, "line 3 is not JSON"),
        ('["prompt"]', "line 3 is not a JSON object"),
        ('{"promt": "one"}', "line 3: .*(prompt.* is missing|unknown field 'promt').*id, prompt, reference, checks"),
        ('{"prompt": "one", "answer": "two"}', "line 3: unknown field 'answer'"),
        ('{"prompt": " "}', "line 3: prompt: .*is blank"),
        ('{"prompt": "one", "max_new_tokens": 0}', "line 3: max_new_tokens: .* got 0"),
        ('{"prompt": "one", "checks": [{"kind": "number"}]}', r"line 3: .*checks\.0\.number\.value.* is missing"),
        ('{"prompt": "one", "checks": [{"kind": "luck"}]}', r"line 3: checks\.0: .*'luck'"),
        (r'{"prompt": "half \ud800"}', "line 3: prompt"),
        ('{"id": "1", "prompt": "one"}', "line 3: duplicate id '1'"),
    ],
)
def test_broken_line_is_named_with_its_number(tmp_path, line, message):
    with pytest.raises(CorpusError, match=message):
        load_task(write(tmp_path, {"prompt": "fine"}, "", line))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "sumarization",
            SpecError,
            "Unknown task 'sumarization'.*summarization, extraction, creative, logic, cnn_dailymail",
        ),
        ("missing.jsonl", CorpusError, "missing.jsonl' cannot be read: No such file"),
    ],
)
def test_unknown_task_or_file_is_one_sentence(name, kind, message):
    with pytest.raises(kind, match=message):
        load_task(name)


def test_a_file_without_prompts_or_text_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="has no prompts"):
        load_task(write(tmp_path, "\n\n"))
    (tmp_path / "bytes.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(CorpusError, match="not UTF-8.*byte 12"):
        load_task(str(tmp_path / "bytes.jsonl"))
    with pytest.raises(SpecError, match="got 0"):
        load_task("logic", 0)


@pytest.fixture
def hub(monkeypatch):
    """A fake Hub with many copies of NEWS that records the request and the number of rows read."""
    seen = {"read": 0}

    def rows():
        for _ in range(1000):
            seen["read"] += 1
            yield NEWS

    def load_dataset(path, config, *, split, streaming):
        seen["asked"] = (path, config, split, streaming)
        return rows()

    monkeypatch.setattr(huggingface_hub, "dataset_info", lambda path, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return seen


def test_dataset_of_the_hub_becomes_prompts_with_references(hub):
    task = load_task("cnn_dailymail", 3)
    assert hub == {"asked": ("abisee/cnn_dailymail", "3.0.0", "test", True), "read": 3}
    first = task.prompts[0]
    assert (first.id, first.reference) == ("cnn_dailymail-1", "It rained.")
    ask, _, text = first.prompt.partition("\n\n")
    assert ask == HUB_TASKS["cnn_dailymail"].ask
    assert NEWS["article"].startswith(text) and len(text.split()) == MOST_WORDS
    assert task.label == "cnn_dailymail (3 prompts of more, a subset)"
    assert task.origin == "first rows of abisee/cnn_dailymail (test), texts truncated to 600 words"


def test_a_dataset_with_other_columns_is_an_error(hub):
    with pytest.raises(CorpusError, match="EdinburghNLP/xsum.*no text in the column 'document'"):
        load_task("xsum")


@pytest.mark.parametrize(
    "error", [ConnectionError("no network"), RuntimeError("Dataset scripts are no longer supported")]
)
def test_errors_of_the_hub_have_a_next_step(hub, monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=f"knkarthick/samsum could not be .*{error}.*Use the built-in task"):
        load_task("samsum")


def test_without_network_the_hub_is_tried_once(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("would retry for half a minute"))
    with pytest.raises(CorpusError, match="EdinburghNLP/xsum could not be"):
        load_task("xsum")  # conftest disables the network


def test_label_of_a_whole_task():
    task = Task(name="mine", origin="file", prompts=(TaskPrompt(id="1", prompt="one"),), total=1)
    assert task.label == "mine (1 prompt)"
