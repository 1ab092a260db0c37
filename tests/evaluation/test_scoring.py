"""Task scores: correct outputs are counted, empty ones score 0, baseline and references are compared."""

import json

import pytest
from evaluate import combine

from lsprism.evaluation import scoring
from lsprism.evaluation.metrics import Rouge, TokenAgreement
from lsprism.evaluation.scoring import score_task
from lsprism.evaluation.tasks import Task, TaskPrompt
from lsprism.records.evaluation import ModelAnswer, TaskReport

PROMPTS = (
    TaskPrompt(id="sum", prompt="2 + 2?", reference="It is 4", checks=[{"kind": "number", "value": 4}]),
    TaskPrompt(id="name", prompt="Who?", checks=[{"kind": "any_of", "texts": ["Anna"]}]),
    TaskPrompt(id="story", prompt="Tell a story.", reference="Once upon a time"),
)
TASK = Task(name="mine", origin="file mine.jsonl", prompts=PROMPTS, total=3)


def said(*texts, reason="eos"):
    return [ModelAnswer(text=text, tokens=tuple(map(ord, text[:5])), reason=reason) for text in texts]


@pytest.fixture(autouse=True)
def words_only(monkeypatch):
    """Metrics that need no encoder."""
    monkeypatch.setattr(scoring, "load_text_metrics", lambda judge, device: combine([Rouge()]))
    monkeypatch.setattr(scoring, "load_answer_metrics", lambda judge, device: combine([Rouge(), TokenAgreement()]))


def test_correct_outputs_are_counted_among_the_checkable_ones():
    report = score_task(TASK, said("It is 5", "Anna", "Once more"), said("It is 4", "Anna", "Once upon a time"))
    assert [(row.right, row.baseline_right) for row in report.rows] == [(False, True), (True, True), (None, None)]
    assert (report.correct.right, report.correct.checkable, report.correct.share) == (1, 2, 0.5)
    assert report.baseline_correct.share == 1.0
    assert report.task == "mine (3 prompts)"


def test_pairs_are_those_of_the_same_prompt():
    report = score_task(TASK, said("It is 5", "Anna", "Once more"), said("It is 5", "Bob", "a time"))
    assert report.against_baseline.ids == ["sum", "name", "story"]
    assert report.against_baseline.scores["rouge1"].values == [1.0, 0.0, 0.0]
    assert report.against_baseline.scores["token_agreement"].values[0] == 1.0
    assert report.against_reference.ids == report.baseline_against_reference.ids == ["sum", "story"]
    assert report.against_reference.scores["rouge1"].values == pytest.approx([2 / 3, 1 / 3])
    assert report.baseline_against_reference.scores["rouge1"].values == pytest.approx([2 / 3, 2 / 3])


def test_baseline_against_itself_is_one():
    same = said("It is 5", "Anna Karenina", "Once more")
    for score in score_task(TASK, same, same).against_baseline.scores.values():
        assert score.mean == (None if score.metric == "first_divergence" else pytest.approx(1.0, abs=1e-5))


def test_empty_outputs_are_incorrect_score_zero_and_are_noted():
    checks = [{"kind": "none_of", "texts": ["rain"]}]
    task = TASK.model_copy(update={"prompts": (*PROMPTS[:2], TaskPrompt(id="dry", prompt="Write.", checks=checks))})
    report = score_task(task, said("", " \n", ""), said("It is 4", "Anna", "sun"))
    assert [row.right for row in report.rows] == [False, False, False]
    assert report.correct.share == 0.0
    assert report.against_baseline.scores["rouge1"].values == [0.0, 0.0, 0.0]
    assert report.notes == ["3 of 3 outputs are empty: incorrect, score 0."]


def test_outputs_at_the_token_limit_are_noted_for_each_model():
    report = score_task(TASK, said("a", "b", "c", reason="length"), said("a", "b", ""))
    assert report.notes == [
        "3 of 3 outputs reached the token limit.",
        "1 of 3 outputs of the baseline are empty: incorrect, score 0.",
    ]


def test_without_baseline_references_or_checks_those_parts_are_none():
    task = Task(name="bare", origin="", prompts=(TaskPrompt(id="1", prompt="Go."),), total=1)
    report = score_task(task, said("gone"))
    parts = ("correct", "baseline_correct", "against_baseline", "against_reference", "baseline_against_reference")
    assert [getattr(report, part) for part in parts] == [None] * 5


def test_report_survives_json():
    report = score_task(TASK, said("It is 5", "Anna", "Once more"), said("It is 4", "", "Once"))
    text = report.model_dump_json()
    assert TaskReport.model_validate_json(text) == report
    assert json.loads(text)["correct"] == {"right": 1, "checkable": 2, "share": 0.5}


def test_every_prompt_needs_one_output():
    with pytest.raises(ValueError):
        score_task(TASK, said("only one"))
