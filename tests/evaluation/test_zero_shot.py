"""Zero-shot tasks with the real lm-eval, on a local task."""

import json

import pytest

from lsprism import extras
from lsprism.api import load
from lsprism.errors import RequestError, SpecError
from lsprism.evaluation import zero_shot
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.runner import QUICK_EXAMPLES, Evaluation
from lsprism.specs import MeasureSpec

TASK = """task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: ["river", "stone"]
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": "the one", "answer": "river"}, {"question": "the two", "answer": "stone"}] * 3
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load(str(tiny_folder))


def test_the_accuracy_is_that_of_the_more_likely_choice(loaded, manager):
    figure = run_to_end(zero_shot.stream_zero_shot(loaded, ["local_choice"], manager=manager))
    logits = [
        loaded.model(**loaded.tokenizer(f"the {word}", return_tensors="pt")).logits[0, -1] for word in ("one", "two")
    ]
    river, stone = (loaded.tokenizer.convert_tokens_to_ids(word) for word in ("river", "stone"))
    right = [logits[0][river] > logits[0][stone], logits[1][stone] > logits[1][river]]
    assert figure.accuracy == {"local_choice": sum(map(float, right)) / 2}
    assert (figure.examples, figure.metric) == ({"local_choice": 6}, {"local_choice": "acc_norm"})
    assert "all examples" in figure.format_protocol()


def test_a_limit_is_labeled_as_a_subset(loaded, manager):
    figure = run_to_end(zero_shot.stream_zero_shot(loaded, ["local_choice"], limit=2, manager=manager))
    assert figure.examples == {"local_choice": 2}
    assert "the first 2 examples of each (a subset)" in figure.format_protocol()


def test_an_unknown_task_is_an_error(loaded, manager):
    with pytest.raises(SpecError, match="no task 'riddles'"):
        run_to_end(zero_shot.stream_zero_shot(loaded, ["riddles"], manager=manager))


def test_without_the_library_the_install_command_is_given(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"lm_eval is not installed.*pip install .*\[zero-shot\]"):
        zero_shot.check_library()


@pytest.mark.parametrize(("settings", "examples"), [({}, None), ({"quick": True}, QUICK_EXAMPLES)])
@pytest.mark.parametrize("limit", [0, 7])
def test_quick_uses_a_subset(settings, examples, limit):
    asked = MeasureSpec(zero_shot_limit=limit, **settings)
    assert Evaluation(asked, None, None, None)._examples == (limit or examples)
