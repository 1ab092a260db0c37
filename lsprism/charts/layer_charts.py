"""Charts of the layers of a compressed model: sparsity, rank, size and output error."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lsprism.charts.style import PALETTE, apply_style
from lsprism.records.compression import LayerReport, LayerSpectrum
from lsprism.units import format_size

COST = [[0, "rgba(217,119,6,0.05)"], [1, "rgba(217,119,6,1)"]]  # amber: the cost
SIZE = [[0, "rgba(47,111,237,0.06)"], [1, "rgba(47,111,237,1)"]]  # blue: the result


@dataclass(frozen=True)
class LayerMetric:
    """One metric of every layer."""

    title: str
    hint: str
    value: Callable[[LayerReport], float]
    shown: Callable[[float], str]
    summed: bool = False  # over the layers of a block; else averaged


def _format_percent(value: float) -> str:
    return f"{value:.1%}"


METRICS = {
    "error": LayerMetric(
        "relative output error",
        "Error of the layer's output on the calibration data: ||(W - W')X|| / ||WX||.",
        lambda layer: layer.error,
        _format_percent,
    ),
    "sparsity": LayerMetric(
        "sparsity",
        "Fraction of the layer's parameters that was removed; entries of low-rank factors count as kept.",
        lambda layer: layer.sparsity,
        _format_percent,
    ),
    "rank": LayerMetric(
        "rank",
        "Rank of the low-rank factors; 0 if the layer has none.",
        lambda layer: float(layer.rank),
        lambda value: f"{value:.0f}",
    ),
    "stored": LayerMetric(
        "size on disk",
        "Bytes of the layer on disk, including its mask.",
        lambda layer: float(layer.stored_bytes),
        format_size,
        summed=True,
    ),
}


@dataclass(frozen=True)
class Grid:
    """values[projection][block]; None for a layer that does not exist or is not finished."""

    projections: list[str]
    blocks: int
    values: list[list[float | None]]


def get_projection(layer: LayerReport | LayerSpectrum) -> str:
    """'self_attn.q_proj' of 'model.layers.3.self_attn.q_proj'."""
    return layer.name.partition(f".{layer.block}.")[2] or layer.name


def build_grid(layers: Sequence[LayerReport], measure: str) -> Grid:
    """Projections in the order of the first block."""
    value = METRICS[measure].value
    names = list(dict.fromkeys(get_projection(layer) for layer in sorted(layers, key=lambda layer: layer.block)))
    blocks = 1 + max((layer.block for layer in layers), default=-1)
    rows: list[list[float | None]] = [[None] * blocks for _ in names]
    for layer in layers:
        rows[names.index(get_projection(layer))][layer.block] = value(layer)
    return Grid(names, blocks, rows)


def plot_heat_map(layers: Sequence[LayerReport], measure: str) -> go.Figure:
    """Block x projection."""
    kind, table = METRICS[measure], build_grid(layers, measure)
    shown = [[kind.shown(v) if v is not None else "" for v in row] for row in table.values]
    figure = go.Figure(
        go.Heatmap(
            z=table.values,
            x=list(range(1, table.blocks + 1)),
            y=[name.rpartition(".")[2] for name in table.projections],
            customdata=shown,
            colorscale=COST if measure == "error" else SIZE,
            zmin=0,
            colorbar={
                "orientation": "h",
                "thickness": 8,
                "len": 0.5,
                "x": 1,
                "xanchor": "right",
                "y": 1,
                "yanchor": "bottom",
                "outlinewidth": 0,
                "nticks": 4,
                "tickformat": ".0%" if kind.shown is _format_percent else "",
            },  # fmt: skip
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate="block %{x}<br>%{y}<br>%{customdata}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    figure.update_xaxes(showgrid=False)
    return apply_style(figure, "Per layer", x="block", height=max(260, 130 + 30 * len(table.projections)))


def plot_block_bars(layers: Sequence[LayerReport], measure: str) -> go.Figure:
    """A bar per block: the mean of its layers, weighted by their parameters, or their sum."""
    kind = METRICS[measure]
    blocks = sorted({layer.block for layer in layers})
    values = [_compute_block_value([layer for layer in layers if layer.block == block], kind) for block in blocks]
    figure = go.Figure(
        go.Bar(
            x=[block + 1 for block in blocks],
            y=values,
            customdata=[kind.shown(value) for value in values],
            marker={"color": PALETTE[2 if measure == "error" else 1]},
            hovertemplate="block %{x}: %{customdata}<extra></extra>",
        )
    )
    figure.update_yaxes(rangemode="tozero", tickformat=".0%" if kind.shown is _format_percent else "")
    how = "sum over layers" if kind.summed else "parameter-weighted mean"
    return apply_style(figure, "Per block", x="block", y=how, height=280)


def _compute_block_value(layers: Sequence[LayerReport], kind: LayerMetric) -> float:
    if kind.summed:
        return sum(map(kind.value, layers))
    weights = [layer.rows * layer.columns for layer in layers]
    return sum(w * kind.value(layer) for w, layer in zip(weights, layers, strict=True)) / sum(weights)


COLUMNS = (
    "name",
    "block",
    "rows",
    "columns",
    "form",
    "kept",
    "sparsity",
    "rank",
    "stored_bytes",
    "dense_bytes",
    "error",
)


def to_csv(layers: Sequence[LayerReport]) -> str:
    """A row per layer; blocks are counted from 0, as in the names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(layer, name) for name in COLUMNS] for layer in layers)
    return text.getvalue()
