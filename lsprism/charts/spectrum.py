"""Charts of singular values before and after compression, and the file that holds them."""

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from pydantic import ValidationError

from lsprism.charts.layer_charts import get_projection
from lsprism.charts.style import INK, PALETTE, apply_style
from lsprism.records.compression import LayerSpectrum

NOISE = 1e-6  # relative to the largest value; smaller ones are rounding errors
MOST = len(PALETTE) - 1  # matrices in one chart


def read_spectra(path: Path) -> list[LayerSpectrum]:
    """The spectra in a file so far; an incomplete line is skipped."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in filter(None, lines):
        try:
            found.append(LayerSpectrum.model_validate_json(line))
        except ValidationError:
            continue
    return found


def add_spectrum(path: Path, site: LayerSpectrum) -> None:
    """Append one, after completing a line that a kill cut short. OSError if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        cut = stream.seek(0, os.SEEK_END) and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n"
        stream.write((b"\n" if cut else b"") + site.model_dump_json().encode() + b"\n")


def format_title(site: LayerSpectrum) -> str:
    """'block 3, self_attn.q_proj'."""
    return f"block {site.block + 1}, {get_projection(site)}"


def plot_values(sites: Sequence[LayerSpectrum]) -> go.Figure:
    """Singular values on logarithmic axes: dotted before, solid after. The rank of the factors is a dashed line, the
    effective rank a circle (before) and a diamond (after)."""
    figure = go.Figure()
    for n, site in enumerate(sites[:MOST]):
        color = PALETTE[1 + n]
        _add_line(figure, site, (site.before, "before"), {"color": color, "width": 1.2, "dash": "dot"})
        _add_line(figure, site, (site.after, "after"), {"color": color, "width": 2.4})
        for rank, heights, symbol in (
            (site.effective_rank_before, site.before, "circle-open"),
            (site.effective_rank_after, site.after, "diamond"),
        ):
            if rank:
                figure.add_scatter(
                    x=[rank],
                    y=[_find_height(site.ranks, heights, rank)],
                    mode="markers",
                    marker={"color": color, "size": 10, "symbol": symbol, "line": {"width": 2}},
                    showlegend=False,
                    hovertemplate=f"{format_title(site)}<br>effective rank %{{x:.0f}}<extra></extra>",
                )
    for rank in sorted({site.rank for site in sites[:MOST] if site.rank}):
        figure.add_vline(x=rank, line={"color": INK, "dash": "dash", "width": 1})
        figure.add_annotation(
            x=math.log10(rank),
            y=1,
            yref="paper",
            yanchor="bottom",
            text=f"rank {rank}",
            showarrow=False,
            font={"color": INK},
        )
    figure.update_xaxes(type="log", minor={"showgrid": False}, dtick=1)
    tops = [max(site.before[0], site.after[0]) for site in sites[:MOST]]
    lows = [value for site in sites[:MOST] for value in (*site.before, *site.after) if value > NOISE * max(tops)]
    span = [math.log10(min(lows)) - 0.1, math.log10(max(tops)) + 0.1] if lows else None
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=span)
    return apply_style(figure, "Singular values", x="index", y="singular value", height=420)


def plot_energy(sites: Sequence[LayerSpectrum]) -> go.Figure:
    """Fraction of the squared norm in the first singular values."""
    figure = go.Figure()
    for n, site in enumerate(sites[:MOST]):
        color = PALETTE[1 + n]
        _add_line(figure, site, (site.energy_before, "before"), {"color": color, "width": 1.2, "dash": "dot"})
        _add_line(figure, site, (site.energy_after, "after"), {"color": color, "width": 2.4})
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    return apply_style(figure, "Cumulative energy", x="index", y="fraction of the energy", height=360)


def plot_split(sites: Sequence[LayerSpectrum]) -> go.Figure:
    """Energy of the sparse part, the low-rank part, their sum and the residual, relative to the original weights."""
    figure = go.Figure()
    parts = (
        ("sparse part S", "sparse_energy", PALETTE[1]),
        ("low-rank part L", "factors_energy", PALETTE[3]),
        ("S + L", "kept_energy", PALETTE[0]),
        ("residual W - (S + L)", "lost_energy", PALETTE[2]),
    )
    names = [format_title(site) for site in sites[:MOST]]
    for title, field, color in parts:
        shares = [getattr(site, field) / site.weight_energy if site.weight_energy else 0.0 for site in sites[:MOST]]
        figure.add_bar(
            name=title,
            x=names,
            y=shares,
            marker={"color": color},
            text=[f"{share:.1%}" for share in shares],
            textposition="outside",
            cliponaxis=False,
        )
    figure.update_yaxes(rangemode="tozero", tickformat=".0%")
    return apply_style(figure, "Energy relative to the original weights", y="fraction of ||W||²", height=340)


def _add_line(figure: go.Figure, site: LayerSpectrum, drawn: tuple[list[float], str], line: dict[str, object]) -> None:
    heights, when = drawn
    figure.add_scatter(
        x=site.ranks,
        y=heights,
        mode="lines",
        line=line,
        name=f"{format_title(site)}, {when}",
        hovertemplate=f"{format_title(site)}, {when}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    )


def _find_height(ranks: Sequence[int], heights: Sequence[float], rank: float) -> float:
    """The value at the nearest stored rank."""
    return heights[min(range(len(ranks)), key=lambda n: abs(ranks[n] - rank))]


def to_csv(sites: Sequence[LayerSpectrum]) -> str:
    """A row per stored singular value of each matrix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "number", "before", "after", "energy_before", "energy_after"))
    for site in sites:
        columns = (site.ranks, site.before, site.after, site.energy_before, site.energy_after)
        writer.writerows((site.name, *row) for row in zip(*columns, strict=True))
    return text.getvalue()
