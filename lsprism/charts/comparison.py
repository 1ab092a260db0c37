"""Charts of a comparison: quality, speed and size of every model, and all three in one."""

from collections.abc import Iterator

import plotly.graph_objects as go

from lsprism.charts.style import INK, PALETTE, apply_style
from lsprism.charts.table import CLOSENESS, Table
from lsprism.metric_declarations import Column


def iter_charts(table: Table) -> Iterator[go.Figure]:
    """A chart for each metric in the table."""
    there = {column.key: column for column in table.columns}
    if {"stored", "perplexity"} <= there.keys() and len(table.rows) > 1:
        yield plot_tradeoff(table)
    for key in ("perplexity", "kl", "top1", "stored", "speed", "speedup", "correct"):
        if key in there:
            yield plot_bars(table, there[key])
    if scores := [there[key] for key in CLOSENESS if key in there]:
        yield plot_grouped_bars(table, scores)


def plot_bars(table: Table, column: Column) -> go.Figure:
    """One bar per model that has the metric; a flagged value is hatched."""
    figure = go.Figure()
    for row in table.rows:
        if (value := row.values.get(column.key)) is not None:
            marker = {"color": _select_color(table, row.label)} | ({"pattern": {"shape": "/"}} if value.doubts else {})
            figure.add_bar(
                name=row.label,
                x=[row.label],
                y=[value.number],
                text=[table.format_cell(row, column)],
                textposition="outside",
                cliponaxis=False,
                marker=marker,
                hovertemplate="%{x}: %{text}<extra></extra>",
            )
    percent = column.form.endswith("%}")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%" if percent else "")
    figure.update_layout(showlegend=False)
    better = f"{column.better} is better" if column.better else ""
    return apply_style(figure, _capitalize(column.title), y=better)


def plot_grouped_bars(table: Table, columns: list[Column]) -> go.Figure:
    """Several scores between 0 and 1 side by side, one group per score."""
    figure = go.Figure()
    for row in table.rows:
        there = [column for column in columns if column.key in row.values]
        if there:
            figure.add_bar(
                name=row.label,
                x=[column.title for column in there],
                y=[row.values[column.key].number for column in there],
                text=[table.format_cell(row, column) for column in there],
                textposition="outside",
                cliponaxis=False,
                marker={"color": _select_color(table, row.label)},
            )
    figure.update_yaxes(range=[0, 1.08])
    return apply_style(figure, "Text similarity to the baseline", y="1 = identical")


def plot_tradeoff(table: Table) -> go.Figure:
    """Size on disk x perplexity; the size of a point is the speed, if it was measured."""
    rows = [row for row in table.rows if {"stored", "perplexity"} <= row.values.keys()]
    speeds = [row.values["speed"].number if "speed" in row.values else None for row in rows]
    top = max((speed for speed in speeds if speed), default=None)
    sizes = [14 + 26 * speed / top if speed and top else 18 for speed in speeds]
    figure = go.Figure(
        go.Scatter(
            x=[row.values["stored"].number for row in rows],
            y=[row.values["perplexity"].number for row in rows],
            mode="markers+text",
            text=[row.label for row in rows],
            textposition="top center",
            textfont={"color": INK},
            marker={"size": sizes, "color": [_select_color(table, row.label) for row in rows], "opacity": 0.85},
            customdata=[f"{speed:.1f} tok/s" if speed else "speed not measured" for speed in speeds],
            hovertemplate="%{text}<br>%{x:.1f} MB<br>perplexity %{y:.2f}<br>%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(rangemode="tozero")
    note = "; larger points are faster" if top else ""
    labels = {"x": "size on disk (MB)", "y": "perplexity (lower is better)"}
    return apply_style(figure, f"Size and quality{note}", **labels, height=420)


def _select_color(table: Table, label: str) -> str:
    """Gray for baselines, then the palette in order."""
    names = [row.label for row in table.rows if not row.label.endswith("(baseline)")]
    return PALETTE[1 + names.index(label) % (len(PALETTE) - 1)] if label in names else PALETTE[0]


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
