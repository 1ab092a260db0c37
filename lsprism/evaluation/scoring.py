"""Scores the outputs of a task: against the baseline's outputs, against references, and by checks."""

from collections.abc import Sequence

from lsprism.evaluation.checks import is_right
from lsprism.evaluation.judge import EMBEDDED, JudgeName
from lsprism.evaluation.metrics import answer_metrics, text_metrics
from lsprism.evaluation.tasks import Task
from lsprism.outcomes import Answer, Closeness, Row, Tally, TaskReport

PROTOCOL = (
    "Greedy outputs for the same prompts with the same token limit for both models, with the chat template if the "
    "model has one; an output is correct if all checks of its prompt hold; an empty output is incorrect and scores 0."
)


def score_task(
    task: Task,
    answers: Sequence[Answer],
    baseline: Sequence[Answer] | None = None,
    judge: JudgeName = EMBEDDED,
    device: str = "cpu",
) -> TaskReport:
    """Score one output per prompt of the task, in order. `device`: for the encoder.

    Raises SourceError if the encoder is not available.
    """
    rows = _rows(task, answers, baseline)
    return TaskReport(
        task=task.label,
        origin=task.origin,
        protocol=PROTOCOL,
        rows=rows,
        correct=_tally([row.right for row in rows]),
        baseline_correct=_tally([row.baseline_right for row in rows]),
        against_baseline=_against_baseline(rows, judge, device) if baseline is not None else None,
        against_reference=_against_reference(task, answers, judge, device),
        baseline_against_reference=_against_reference(task, baseline, judge, device) if baseline is not None else None,
        notes=_notes(rows),
    )


def _rows(task: Task, answers: Sequence[Answer], baseline: Sequence[Answer] | None) -> list[Row]:
    others = [None] * len(answers) if baseline is None else baseline
    return [
        Row(
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


def _tally(outcomes: Sequence[bool | None]) -> Tally | None:
    checked = [right for right in outcomes if right is not None]
    return Tally(right=sum(checked), checkable=len(checked)) if checked else None


def _against_baseline(rows: Sequence[Row], judge: JudgeName, device: str) -> Closeness:
    pairs = [(row.answer, row.baseline) for row in rows if row.baseline is not None]
    scores = answer_metrics(judge, device).compute(
        predictions=[ours.text for ours, _ in pairs],
        references=[theirs.text for _, theirs in pairs],
        prediction_tokens=[list(ours.tokens) for ours, _ in pairs],
        reference_tokens=[list(theirs.tokens) for _, theirs in pairs],
    )
    return Closeness(ids=[row.id for row in rows], scores=scores)


def _against_reference(task: Task, answers: Sequence[Answer], judge: JudgeName, device: str) -> Closeness | None:
    pairs = [(p, a) for p, a in zip(task.prompts, answers, strict=True) if p.reference is not None]
    if not pairs:
        return None
    scores = text_metrics(judge, device).compute(
        predictions=[a.text for _, a in pairs], references=[p.reference for p, _ in pairs]
    )
    return Closeness(ids=[p.id for p, _ in pairs], scores=scores)


def _notes(rows: Sequence[Row]) -> list[str]:
    sides = {"": [row.answer for row in rows], " of the baseline": [row.baseline for row in rows if row.baseline]}
    return [note for side, answers in sides.items() for note in _side_notes(side, answers)]


def _side_notes(side: str, answers: Sequence[Answer]) -> list[str]:
    empty = sum(not answer.text.strip() for answer in answers)
    cut = sum(answer.reason == "length" for answer in answers)
    notes = [f"{empty} of {len(answers)} outputs{side} are empty: incorrect, score 0."] if empty else []
    return [*notes, f"{cut} of {len(answers)} outputs{side} reached the token limit."] if cut else notes
