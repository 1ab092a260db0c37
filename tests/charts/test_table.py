"""The table: a row per model, nothing measured under two protocols mixed, nothing flagged shown bare."""

import csv
import io

from eval_reports import changed, likelihood, report

from lsprism.charts.table import build_comparison, to_csv, to_markdown
from lsprism.records.evaluation import SanityFlag

FLAG = SanityFlag(figure="perplexity", side="model", reason="below 2")


def labels(table) -> list[str]:
    return [row.label for row in table.rows]


def cells(table, key: str) -> list[str]:
    (column,) = (column for column in table.columns if column.key == key)
    return [table.format_cell(row, column) for row in table.rows]


def test_the_baseline_once_then_every_model_in_order():
    table = build_comparison([report(sparsity=0.3, perplexity=21.0), report(sparsity=0.5)])
    assert labels(table) == ["dense (baseline)", "wanda 0.3", "wanda 0.5"]
    assert cells(table, "perplexity") == ["20.00", "21.00", "24.00"]
    assert cells(table, "kept") == ["100.0%", "70.0%", "50.0%"]
    assert cells(table, "speedup") == ["", "1.10x (1.00 to 1.20)", "1.10x (1.00 to 1.20)"]


def test_two_baselines_are_two_rows():
    other = report(sparsity=0.3)
    other = changed(other, "baseline", model=other.baseline.model.model_copy(update={"fingerprint": "x"}))
    assert labels(build_comparison([report(), other])).count("dense (baseline)") == 2


def test_a_model_alone_has_no_baseline():
    table = build_comparison([report(baseline=None, agreement=None, speedups=[], tasks=[])])
    assert labels(table) == ["wanda 0.5"]
    assert {column.key for column in table.columns}.isdisjoint({"kl", "speedup", "similarity"})


def test_models_of_one_name_are_told_apart_by_their_folders():
    first, second = report(), report()
    second = changed(second, "compressed", model=second.compressed.model.model_copy(update={"model_id": "elsewhere"}))
    assert labels(build_comparison([first, second]))[1:] == ["wanda 0.5 (wanda-0.5)", "wanda 0.5 (elsewhere)"]


def test_one_protocol_stands_at_the_head_of_its_column_and_two_in_the_cells():
    table = build_comparison([report()])
    (column,) = (column for column in table.columns if column.key == "perplexity")
    number = table.protocols.index(report().compressed.likelihood.format_protocol()) + 1
    assert table.format_title(column) == f"perplexity [{number}]"
    mixed = build_comparison([report(), changed(report("svd"), "compressed", likelihood=likelihood(9.0, windows=1))])
    (column,) = (column for column in mixed.columns if column.key == "perplexity")
    assert mixed.format_title(column) == "perplexity"
    assert len({cell.partition("[")[2] for cell in cells(mixed, "perplexity")}) == 2


def test_what_is_flagged_never_stands_bare():
    table = build_comparison([report(perplexity=1.1, flags=[FLAG])])
    assert cells(table, "perplexity") == ["20.00", "1.10 (!)"]
    assert table.list_flags() == ["wanda 0.5, perplexity: below 2."]
    text = to_markdown(table)
    assert "1.10 (!)" in text and "(!) wanda 0.5, perplexity: below 2." in text
    (doubted,) = [row for row in csv.DictReader(io.StringIO(to_csv(table))) if row["doubt"]]
    assert (doubted["model"], doubted["figure"], doubted["doubt"]) == ("wanda 0.5", "perplexity", "below 2")


def test_the_flag_of_the_other_side_leaves_this_one_alone():
    flagged = report(flags=[FLAG.model_copy(update={"side": "baseline"})])
    assert cells(build_comparison([flagged]), "perplexity") == ["20.00 (!)", "24.00"]


def test_markdown_is_one_rectangle_with_every_protocol_below():
    table = build_comparison([report(sparsity=0.3), report()])
    text = to_markdown(table)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {len(table.columns) + 2}
    assert all(f"{n}. {protocol}" in text for n, protocol in enumerate(table.protocols, start=1))


def test_every_figure_of_the_csv_states_its_protocol():
    rows = list(csv.DictReader(io.StringIO(to_csv(build_comparison([report()])))))
    assert all(row["protocol"] for row in rows)
    (value,) = [row["value"] for row in rows if row["model"] == "wanda 0.5" and row["figure"] == "perplexity"]
    assert float(value) == 24.0


def test_the_mean_over_tasks_counts_prompts_not_tasks():
    one, two = report().tasks[0], report().tasks[0]
    score = two.against_baseline.scores["similarity"].model_copy(update={"values": [0.1, 0.1, None], "mean": 0.1})
    scores = {**two.against_baseline.scores, "similarity": score}
    two = two.model_copy(update={"against_baseline": two.against_baseline.model_copy(update={"scores": scores})})
    assert cells(build_comparison([report(tasks=[one, two])]), "similarity") == ["", "0.300"]
