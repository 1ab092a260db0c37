"""One table of any evaluations, as in a paper: a row per model, a column per metric, the protocols below.

A flagged value carries the mark and its reason; values of different protocols carry their numbers.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lsprism.metric_declarations import COLUMNS, Column
from lsprism.records.evaluation import Accuracy, EvalReport, ModelReport, SanityFlag, TaskReport

FLAG_MARK = "(!)"
CLOSENESS = ("bertscore_f1", "rougeL", "similarity")


@dataclass(frozen=True)
class Value:
    """One value: the number, its protocol, the reasons to doubt it, and its spread."""

    number: float
    protocol: str
    doubts: tuple[str, ...] = ()
    spread: tuple[float, float] | None = None  # lowest and highest of the repetitions


@dataclass(frozen=True)
class TableRow:
    label: str
    values: dict[str, Value]  # by the key of the column


@dataclass(frozen=True)
class Table:
    columns: list[Column]  # those with at least one value
    rows: list[TableRow]
    protocols: list[str] = field(default_factory=list)  # numbered from 1

    def format_cell(self, row: TableRow, column: Column) -> str:
        """'23.33', '23.33 (!)', or '23.33 [2]' if the protocols in the column differ."""
        value = row.values.get(column.key)
        if value is None:
            return ""
        mixed = len(self._list_numbers(column)) > 1
        number = f" [{self.protocols.index(value.protocol) + 1}]" if mixed else ""
        spread = " ({:.2f} to {:.2f})".format(*value.spread) if value.spread else ""
        return column.form.format(value.number) + spread + number + (f" {FLAG_MARK}" if value.doubts else "")

    def format_title(self, column: Column) -> str:
        """With the number of the protocol if all rows share it."""
        numbers = self._list_numbers(column)
        return f"{column.title} [{numbers[0]}]" if len(numbers) == 1 else column.title

    def _list_numbers(self, column: Column) -> list[int]:
        used = [row.values[column.key].protocol for row in self.rows if column.key in row.values]
        return sorted({self.protocols.index(protocol) + 1 for protocol in used})

    def list_flags(self) -> list[str]:
        """One sentence for each flag."""
        names = {column.key: column.title for column in self.columns}
        return [
            f"{row.label}, {names[key]}: {reason}."
            for row in self.rows
            for key, value in row.values.items()
            if key in names
            for reason in value.doubts
        ]


def list_columns(reports: Sequence[EvalReport]) -> list[Column]:
    """The built-in columns, then those of the metrics of other packages in these reports."""
    sides = [side for report in reports for side in (report.baseline, report.compressed) if side is not None]
    added = [column for side in sides for result in side.extra.values() for column in result.columns]
    taken = {column.key for column in COLUMNS}
    return [*COLUMNS, *{column.key: column for column in added if column.key not in taken}.values()]


def build_comparison(reports: Sequence[EvalReport], figures: Collection[str] | None = None) -> Table:
    """Baselines first, each once, then the models in the order of the reports. `figures`: keys of columns (all)."""
    rows = [*_iter_baselines(reports), *(_make_row(report) for report in reports)]
    labels = [row.label for row in rows]
    repeated = {label for label in labels if labels.count(label) > 1}
    for n, report in enumerate(reports, start=len(rows) - len(reports)):
        if rows[n].label in repeated:  # two artifacts of one method and sparsity
            rows[n] = replace(rows[n], label=f"{rows[n].label} ({report.compressed.model.model_id})")
    asked = [column for column in list_columns(reports) if figures is None or column.key in figures]
    columns = [column for column in asked if any(column.key in row.values for row in rows)]
    made = [row.values[column.key].protocol for column in columns for row in rows if column.key in row.values]
    return Table(columns, rows, list(dict.fromkeys(made)))


def _iter_baselines(reports: Sequence[EvalReport]) -> Iterator[TableRow]:
    seen = set()
    for report in reports:
        side = report.baseline
        if side is None or side.model.fingerprint in seen:
            continue
        seen.add(side.model.fingerprint)
        values = {**_collect_own_values(side), **_collect_accuracy(report.tasks, lambda task: task.baseline_correct)}
        yield TableRow(f"{side.model.label} (baseline)", _apply_flags(values, report.flags, "baseline"))


def _make_row(report: EvalReport) -> TableRow:
    values = {
        **_collect_own_values(report.compressed),
        **_collect_agreement(report),
        **_collect_text_scores(report.tasks),
        **_collect_accuracy(report.tasks, lambda task: task.correct),
        **_collect_speedups(report),
    }
    return TableRow(report.compressed.model.label, _apply_flags(values, report.flags, "model"))


def _collect_own_values(side: ModelReport) -> dict[str, Value]:
    """The metrics of one model alone; speeds are those of the first prompt length."""
    values = {
        key: Value(number, result.protocol) for result in side.extra.values() for key, number in result.values.items()
    }
    if sizes := side.sizes:
        values["kept"] = Value(sizes.kept_share, sizes.format_protocol())
        values["stored"] = Value(sizes.stored_bytes / 1e6, sizes.format_protocol())
        values["resident"] = Value(sizes.resident_bytes / 1e6, sizes.format_protocol())
    if side.likelihood:
        values["perplexity"] = Value(side.likelihood.value, side.likelihood.format_protocol())
    if side.words:
        values["word_perplexity"] = Value(side.words.value, side.words.format_protocol())
    if side.zero_shot:
        values["zero_shot"] = Value(side.zero_shot.mean, side.zero_shot.format_protocol())
    if side.speeds:
        first = side.speeds[0]
        values["speed"] = Value(first.tokens_per_s, first.format_protocol())
        values["first_token"] = Value(first.first_token_s, first.format_protocol())
        if first.peak_memory_bytes is not None:
            values["peak"] = Value(first.peak_memory_bytes / 1e6, first.format_protocol())
    return values


def _collect_agreement(report: EvalReport) -> dict[str, Value]:
    figure = report.agreement
    if figure is None:
        return {}
    return {"kl": Value(figure.kl, figure.format_protocol()), "top1": Value(figure.top1, figure.format_protocol())}


def _collect_text_scores(tasks: Sequence[TaskReport]) -> dict[str, Value]:
    """Similarity to the baseline's outputs, mean over the prompts of all tasks."""
    values: dict[str, Value] = {}
    for key in CLOSENESS:
        scores = [task.against_baseline.scores[key] for task in tasks if task.against_baseline]
        numbers = [number for score in scores for number in score.values if number is not None]
        if numbers:
            values[key] = Value(fmean(numbers), _format_text_protocol(tasks))
    return values


def _collect_accuracy(tasks: Sequence[TaskReport], tally: Callable[[TaskReport], Accuracy | None]) -> dict[str, Value]:
    tallies = [found for task in tasks if (found := tally(task)) is not None]
    if not tallies:
        return {}
    share = sum(found.right for found in tallies) / sum(found.checkable for found in tallies)
    return {"correct": Value(share, _format_text_protocol(tasks))}


def _format_text_protocol(tasks: Sequence[TaskReport]) -> str:
    """One protocol for all text metrics, so that it is read once."""
    close = [task.against_baseline for task in tasks if task.against_baseline]
    scores = [close[0].scores[key].protocol for key in CLOSENESS] if close else []
    against = ["Similarity is to the baseline's outputs."] if close else []
    checkable = sum(task.correct.checkable for task in tasks if task.correct)
    right = [f"Accuracy: over the {checkable} prompts with a checkable answer."] if checkable else []
    names = ", ".join(task.task for task in tasks)
    return " ".join([f"Text: {names}.", tasks[0].protocol, *scores, *against, *right])


def _collect_speedups(report: EvalReport) -> dict[str, Value]:
    named = {"speedup": report.speedups, "speedup_as_shipped": report.speedups_as_shipped}
    return {
        key: Value(found[0].ratio, found[0].format_protocol(), spread=(found[0].lowest, found[0].highest))
        for key, found in named.items()
        if found
    }


def _apply_flags(values: dict[str, Value], flags: Sequence[SanityFlag], side: str) -> dict[str, Value]:
    """Add the reasons of the flags of this side."""
    reasons: dict[str, list[str]] = {}
    for flag in flags:
        if flag.side == side:
            reasons.setdefault(flag.figure, []).append(flag.reason)
    return {key: replace(value, doubts=tuple(dict.fromkeys(reasons.get(key, ())))) for key, value in values.items()}


def to_markdown(table: Table) -> str:
    """The table, its flags and its protocols, as README shows them."""
    head = ["", *(table.format_title(column) for column in table.columns)]
    lines = [head, ["---", *["---:"] * len(table.columns)]]
    lines += [[row.label, *(table.format_cell(row, column) for column in table.columns)] for row in table.rows]
    text = "\n".join("| " + " | ".join(_escape_cell(cell) for cell in line) + " |" for line in lines)
    notes = [f"{number}. {protocol}" for number, protocol in enumerate(table.protocols, start=1)]
    doubts = [f"{FLAG_MARK} {doubt}" for doubt in table.list_flags()]
    return "\n\n".join(filter(None, [text, "\n".join(doubts), "\n".join(notes)])) + "\n"


def _escape_cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def to_csv(table: Table) -> str:
    """A line per value, with its protocol and the reasons to doubt it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "figure", "value", "better", "doubt", "protocol"])
    for row in table.rows:
        for column in table.columns:
            if (value := row.values.get(column.key)) is not None:
                doubt = "; ".join(value.doubts)
                writer.writerow([row.label, column.title, value.number, column.better, doubt, value.protocol])
    return out.getvalue()
