"""A report as one HTML file that needs no network: table, charts, outputs, protocols."""

from collections.abc import Sequence
from html import escape

from plotly.io import to_html
from plotly.offline import get_plotlyjs

from lsprism.charts.comparison import iter_charts
from lsprism.charts.speed_rows import HEAD, iter_speed_rows
from lsprism.charts.table import FLAG_MARK, Table, build_comparison
from lsprism.records.evaluation import EvalReport, ModelAnswer, PromptResult, Recommendation

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2024; --quiet: #60656c; --line: #e2e4e8; --ground: #fdfdfc; --mark: #b45309;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e9eb; --quiet: #9ba1a9; --line: #33373d; --ground: #16181b; --mark: #f5a524; }
}
body { font: 16px/1.5 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--ground); max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 8px; }
p.quiet, li, small { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--quiet); font-size: 14px; }
.doubt { color: var(--mark); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.charts > div { min-width: 0; }
.charts > div:first-child { grid-column: 1 / -1; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); gap: 12px; }
.answers pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0 0; font: inherit; }
details { border-bottom: 1px solid var(--line); padding: 8px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
"""


def render_page(title: str, reports: Sequence[EvalReport], advice: Recommendation | None = None) -> str:
    """The whole file. Everything that a model or a user wrote is escaped."""
    table = build_comparison(reports)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">Evaluated {escape(reports[-1].created)} with {_format_environment(reports[-1])}.</p>',
        _render_recommendation(advice),
        render_table(table),
        _list("", [f"{FLAG_MARK} {doubt}" for doubt in table.list_flags()], "doubt"),
        _render_charts(table),
        *map(_render_profile, reports),
        *_render_answers(reports),
        _list("Measurement protocols", table.protocols, ordered=True),
        _list("Notes", list(dict.fromkeys(note for report in reports for note in _list_notes(report)))),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body>\n</html>\n"
    )


def render_table(table: Table) -> str:
    """A row per metric and a column per model: three models fit a narrow screen, sixteen metrics do not."""
    head = "".join(f"<th>{escape(row.label)}</th>" for row in table.rows)
    rows = []
    for column in table.columns:
        cells = "".join(f"<td>{_render_cell(table.format_cell(row, column))}</td>" for row in table.rows)
        rows.append(f"<tr><td>{escape(table.format_title(column))}</td>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _render_cell(cell: str) -> str:
    return escape(cell).replace(FLAG_MARK, f'<span class="doubt">{FLAG_MARK}</span>')


def _render_recommendation(advice: Recommendation | None) -> str:
    if advice is None:
        return ""
    choice = f"Recommended: {advice.choice}. {advice.reason}" if advice.choice else advice.reason
    return f"<h2>Recommendation</h2><p>{escape(choice)}</p><p class='quiet'>{escape(advice.rule)}</p>"


def _render_charts(table: Table) -> str:
    config = {"displaylogo": False, "responsive": True}
    figures = [to_html(figure, config=config, include_plotlyjs=False, full_html=False) for figure in iter_charts(table)]
    pieces = "".join(f"<div>{figure}</div>" for figure in figures)
    return f'<h2>Charts</h2><div class="charts">{pieces}</div>' if figures else ""


def _render_profile(report: EvalReport) -> str:
    lines = list(iter_speed_rows(report))
    if not lines:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line.format_cells())}</tr>" for line in lines)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<h2>{escape(report.compressed.model.label)}: inference profile</h2>{table}"


def _render_answers(reports: Sequence[EvalReport]) -> list[str]:
    parts = []
    for report in reports:
        for task in report.tasks:
            rows = "".join(_render_answer(row, report) for row in task.rows)
            parts.append(f"<h2>{escape(report.compressed.model.label)}: {escape(task.task)}</h2>{rows}")
    return parts


def _render_answer(row: PromptResult, report: EvalReport) -> str:
    sides = [(report.compressed.model.label, row.answer, row.right)]
    if row.baseline is not None and report.baseline is not None:
        sides.insert(0, (f"{report.baseline.model.label} (baseline)", row.baseline, row.baseline_right))
    columns = "".join(_render_output(name, answer, right) for name, answer, right in sides)
    expected = f"<small>Reference: {escape(row.reference)}</small>" if row.reference else ""
    head = escape(" ".join(row.prompt.split())[:160])
    return (
        f"<details><summary>{head}</summary><pre>{escape(row.prompt)}</pre>{expected}"
        f'<div class="answers">{columns}</div></details>'
    )


def _render_output(name: str, answer: ModelAnswer, right: bool | None) -> str:
    verdict = {True: ", correct", False: ", incorrect", None: ""}[right]
    text = escape(answer.text) if answer.text.strip() else "<em>empty output</em>"
    return f"<div><small>{escape(name)}{verdict}</small><pre>{text}</pre></div>"


def _list_notes(report: EvalReport) -> list[str]:
    tasks = [f"{task.task}: {note}" for task in report.tasks for note in task.notes]
    return [*report.notes, *(f"{report.compressed.model.label}, {note}" for note in tasks)]


def _format_environment(report: EvalReport) -> str:
    known = [f"{key} {value}" for key, value in report.environment.items() if value is not None]
    return escape(", ".join(known))


def _list(title: str, items: Sequence[str], kind: str = "", ordered: bool = False) -> str:
    if not items:
        return ""
    tag = "ol" if ordered else "ul"
    entries = "".join(f'<li class="{kind}">{escape(item)}</li>' for item in items)
    return (f"<h2>{escape(title)}</h2>" if title else "") + f"<{tag}>{entries}</{tag}>"
