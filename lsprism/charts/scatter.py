"""Scatter plot of size, perplexity and speed: one SVG whose points are links.

Points of a Plotly chart are not links: a click opens nothing, and the keyboard cannot reach them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lsprism.charts.style import PALETTE
from lsprism.records.evaluation import EvalReport, ModelReport

WIDTH, HEIGHT = 720, 380  # of the SVG, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 18, 44
SMALLEST, LARGEST = 6.0, 17.0  # radius
DECADES = 8  # above this ratio of perplexities the axis is logarithmic


@dataclass(frozen=True)
class ScatterPoint:
    """One model with its metrics; `link` is the target of a click."""

    label: str
    kind: str  # method; "" if the model is not compressed
    stored_mb: float
    perplexity: float
    tokens_per_s: float | None
    protocol: str  # of the perplexity; only equal protocols are comparable
    doubted: bool
    link: str


def collect_points(reports: Sequence[tuple[EvalReport, str]]) -> list[ScatterPoint]:
    """The models of all reports; of two evaluations of one model by the same protocol the last one counts."""
    found: dict[tuple[str, str], ScatterPoint] = {}
    for report, link in reports:
        flagged = {(flag.side, flag.figure) for flag in report.flags}
        for side, which in ((report.baseline, "baseline"), (report.compressed, "model")):
            if side is not None and side.sizes and side.likelihood:
                point = _make_point(side, link, (which, "perplexity") in flagged)
                found[side.model.fingerprint, point.protocol] = point
    return list(found.values())


def _make_point(side: ModelReport, link: str, doubted: bool) -> ScatterPoint:
    assert side.sizes and side.likelihood
    return ScatterPoint(
        label=side.model.label,
        kind=side.model.method,
        stored_mb=side.sizes.stored_bytes / 1e6,
        perplexity=side.likelihood.value,
        tokens_per_s=side.speeds[0].tokens_per_s if side.speeds else None,
        protocol=side.likelihood.format_protocol(),
        doubted=doubted,
        link=link,
    )


def render_scatter(found: Sequence[ScatterPoint]) -> str:
    """SVG, legend and protocol. Points with another protocol than most are hollow."""
    if not found:
        return ""
    usual = Counter(point.protocol for point in found).most_common(1)[0][0]
    across, up = _make_size_axis(found), _make_quality_axis(found)
    kinds = sorted({point.kind for point in found if point.kind})
    colors = {"": PALETTE[0]} | {kind: PALETTE[1 + n % (len(PALETTE) - 1)] for n, kind in enumerate(kinds)}
    fastest = max((point.tokens_per_s or 0.0 for point in found), default=0.0)
    marks = [_render_mark(point, across, up, colors[point.kind], fastest, point.protocol == usual) for point in found]
    axes = _render_axes(across, up)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Size, perplexity and speed of all models" '
        f'class="board">{axes}{"".join(marks)}</svg>'
    )
    others = sum(point.protocol != usual for point in found)
    return svg + _render_legend(colors, fastest) + _render_notes(usual, others)


class Axis:
    """Maps values to positions between `begin` and `end`."""

    def __init__(self, low: float, high: float, begin: float, end: float, logarithmic: bool = False) -> None:
        self._map = math.log10 if logarithmic else float
        self.logarithmic, self.low, self.high, self.begin, self.end = logarithmic, low, high, begin, end

    def map_value(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        return self.begin + (self.end - self.begin) * (self._map(value) - low) / (high - low)

    def compute_ticks(self) -> list[float]:
        """Four to eight round numbers."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [m * 10.0**n for n in powers for m in (1, 2, 5) if self.low <= m * 10.0**n <= self.high]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _make_size_axis(found: Sequence[ScatterPoint]) -> Axis:
    return Axis(0, 1.08 * max(point.stored_mb for point in found), LEFT, WIDTH - RIGHT)


def _make_quality_axis(found: Sequence[ScatterPoint]) -> Axis:
    """Lower perplexity is better and is drawn lower."""
    values = [point.perplexity for point in found]
    low, high = min(values), max(values)
    if high / low > DECADES:
        return Axis(low / 1.3, high * 1.3, HEIGHT - BOTTOM, TOP, logarithmic=True)
    room = 0.12 * (high - low) or 0.1 * high
    return Axis(max(0.0, low - room), high + room, HEIGHT - BOTTOM, TOP)


def _render_axes(across: Axis, up: Axis) -> str:
    parts = []
    for value in across.compute_ticks():
        x = across.map_value(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    for value in up.compute_ticks():
        y = up.map_value(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">size on disk (MB)</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 5}" text-anchor="start">perplexity (lower is better)</text>')
    return "".join(parts)


def _render_mark(point: ScatterPoint, across: Axis, up: Axis, color: str, fastest: float, usual: bool) -> str:
    """A circle whose area shows the speed, and its name; both link to the run."""
    share = (point.tokens_per_s or 0.0) / fastest if fastest else 0.0
    radius = math.sqrt(SMALLEST**2 + share * (LARGEST**2 - SMALLEST**2))
    x, y = across.map_value(point.stored_mb), up.map_value(point.perplexity)
    fill = f'fill="{color}" fill-opacity=".8"' if usual else f'fill="none" stroke="{color}" stroke-width="2"'
    speed = f"{point.tokens_per_s:.1f} tok/s" if point.tokens_per_s is not None else "speed not measured"
    doubt = "; flagged" if point.doubted else ""
    said = f"{point.label}: {point.stored_mb:.1f} MB, perplexity {point.perplexity:.2f}, {speed}{doubt}"
    anchor, shift = ("end", -radius - 5) if x > WIDTH * 0.8 else ("start", radius + 5)
    return (
        f'<a href="{escape(point.link)}" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {fill}/>'
        f'<text x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}" class="name">'
        f"{escape(point.label)}{' (!)' if point.doubted else ''}</text></a>"
    )


def _render_legend(colors: dict[str, str], fastest: float) -> str:
    names = {kind: kind or "not compressed" for kind in colors}
    dots = "".join(
        f'<span><i style="background:{colors[kind]}"></i>{escape(name)}</span>' for kind, name in names.items()
    )
    speed = "<span>Larger points decode faster</span>" if fastest else ""
    return f'<div class="legend">{dots}{speed}</div>'


def _render_notes(usual: str, others: int) -> str:
    hollow = f" Hollow points ({others}) use another protocol and are not comparable." if others else ""
    return f'<p class="quiet">{escape(usual)}{escape(hollow)}</p>'
