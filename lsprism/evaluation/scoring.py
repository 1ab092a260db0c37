"""Scores the outputs of a task: against the baseline's outputs, against references, and by checks."""

from collections.abc import Sequence

from lsprism.evaluation.answer_checks import is_right
from lsprism.evaluation.encoders import EMBEDDED, JudgeName
from lsprism.evaluation.metrics import load_answer_metrics, load_text_metrics
from lsprism.evaluation.tasks import Task
from lsprism.records.evaluation import Accuracy, ModelAnswer, PromptResult, TaskReport, TextSimilarity

PROTOCOL = (
    "Greedy outputs for the same prompts with the same token limit for both models, with the chat template if the "
    "model has one; an output is correct if all checks of its prompt hold; an empty output is incorrect and scores 0."
)


def score_task(
    task: Task,
    answers: Sequence[ModelAnswer],
    baseline: Sequence[ModelAnswer] | None = None,
    judge: JudgeName = EMBEDDED,
    device: str = "cpu",
) -> TaskReport:
    """Score one output per prompt of the task, in order. `device`: for the encoder.

    Raises SourceError if the encoder is not available.
    """
    rows = _make_rows(task, answers, baseline)
    return TaskReport(
        task=task.label,
        origin=task.origin,
        protocol=PROTOCOL,
        rows=rows,
        correct=_count_right([row.right for row in rows]),
        baseline_correct=_count_right([row.baseline_right for row in rows]),
        against_baseline=_compute_baseline_similarity(rows, judge, device) if baseline is not None else None,
        against_reference=_compute_reference_similarity(task, answers, judge, device),
        baseline_against_reference=_compute_reference_similarity(task, baseline, judge, device)
        if baseline is not None
        else None,
        notes=_list_notes(rows),
    )


def _make_rows(
    task: Task, answers: Sequence[ModelAnswer], baseline: Sequence[ModelAnswer] | None
) -> list[PromptResult]:
    others = [None] * len(answers) if baseline is None else baseline
    return [
        PromptResult(
            id=prompt.id,
            prompt=prompt.prompt,
            reference=prompt.reference,
            answer=ours,
            right=is_right(prompt.checks, ours.text),
            baseline=theirs,
            baseline_right=None if theirs is None else is_right(prompt.checks, theirs.text),
        )
        for prompt, ours, theirs in zip(task.prompts, answers, others, strict=True)
    ]


def _count_right(outcomes: Sequence[bool | None]) -> Accuracy | None:
    checked = [right for right in outcomes if right is not None]
    return Accuracy(right=sum(checked), checkable=len(checked)) if checked else None


def _compute_baseline_similarity(rows: Sequence[PromptResult], judge: JudgeName, device: str) -> TextSimilarity:
    pairs = [(row.answer, row.baseline) for row in rows if row.baseline is not None]
    scores = load_answer_metrics(judge, device).compute(
        predictions=[ours.text for ours, _ in pairs],
        references=[theirs.text for _, theirs in pairs],
        prediction_tokens=[list(ours.tokens) for ours, _ in pairs],
        reference_tokens=[list(theirs.tokens) for _, theirs in pairs],
    )
    return TextSimilarity(ids=[row.id for row in rows], scores=scores)


def _compute_reference_similarity(
    task: Task, answers: Sequence[ModelAnswer], judge: JudgeName, device: str
) -> TextSimilarity | None:
    pairs = [(p, a) for p, a in zip(task.prompts, answers, strict=True) if p.reference is not None]
    if not pairs:
        return None
    scores = load_text_metrics(judge, device).compute(
        predictions=[a.text for _, a in pairs], references=[p.reference for p, _ in pairs]
    )
    return TextSimilarity(ids=[p.id for p, _ in pairs], scores=scores)


def _list_notes(rows: Sequence[PromptResult]) -> list[str]:
    sides = {"": [row.answer for row in rows], " of the baseline": [row.baseline for row in rows if row.baseline]}
    return [note for side, answers in sides.items() for note in _list_side_notes(side, answers)]


def _list_side_notes(side: str, answers: Sequence[ModelAnswer]) -> list[str]:
    empty = sum(not answer.text.strip() for answer in answers)
    cut = sum(answer.reason == "length" for answer in answers)
    notes = [f"{empty} of {len(answers)} outputs{side} are empty: incorrect, score 0."] if empty else []
    return [*notes, f"{cut} of {len(answers)} outputs{side} reached the token limit."] if cut else notes
