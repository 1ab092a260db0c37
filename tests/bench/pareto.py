"""The chart of README: perplexity against size on disk, as SVG, from rows that quality.py measured.

    python tests/bench/quality.py --out assets/results/methods/demo.json --plot assets/pareto.svg
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

WIDTH, HEIGHT = 880, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 640, 62, 388  # of the plot area
SIZES, PERPLEXITIES = (100, 280), (18, 100)  # MB, linear; perplexity, logarithmic
X_TICKS, Y_TICKS = range(100, 281, 20), (20, 25, 30, 40, 60, 80, 100)

# Series: label, color class, rows. A row is a key of quality.py's JSON file, without the model's name.
LINES = (
    ("SVD", "svd", ("svd:0.3", "svd:0.5")),
    ("magnitude", "magnitude", ("magnitude:0.3", "magnitude:0.5")),
    ("OATS", "oats", ("oats:0.3", "oats:0.5", "oats:0.6")),
    ("Wanda", "wanda", ("wanda:0.3", "wanda:0.5")),
    ("SparseGPT", "sparsegpt", ("sparsegpt:0.3", "sparsegpt:0.5", "sparsegpt:0.6")),
    ("SparseGPT, sensitivity", "sparsegpt hollow", ("sparsegpt:0.5+allocation=sensitivity",)),
    ("hybrid, uniform", "hybrid hollow", ("hybrid:0.5+allocation=uniform",)),
    ("hybrid (default)", "hybrid", ("hybrid:0.3", "hybrid:0.5", "hybrid:0.6")),
    ("hybrid, best effort", "best", ("hybrid:0.3+effort=best", "hybrid:0.5+effort=best", "hybrid:0.6+effort=best")),
    ("hybrid, int8 values", "hybrid square", ("hybrid:0.5+values=int8",)),
    ("hybrid, best effort, int8", "best square", ("hybrid:0.5+values=int8+effort=best",)),
    ("hybrid, trained", "trained", ("hybrid:0.5+effort=best+reconstruct_minutes=15+heal_minutes=20",)),
    ("rounding", "rounding diamond", ("rtn:4", "rtn:8")),
)
LABELS = (  # row, text, offset of the text in pixels
    ("dense", "bfloat16", (0, -12)),
    ("rtn:8", "8-bit rounding", (0, 22)),
    ("rtn:4", "4-bit rounding", (16, 26)),
)
SPARSITIES = (("hybrid:0.6", "60 % sparse"), ("hybrid:0.5", "50 %"), ("hybrid:0.3", "30 %"))  # written above the plot
STYLE = """
  svg { --ink: #1f2328; --faint: #59636e; --grid: #d8dee4; --page: #ffffff; --svd: #b0b7bf; --magnitude: #7d8590;
    --oats: #8a63d2; --wanda: #1a7f37; --sparsegpt: #bf8700; --hybrid: #0969da; --best: #0a3069; --trained: #bf3989;
    --rounding: #cf222e; font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  @media (prefers-color-scheme: dark) { svg { --ink: #f0f6fc; --faint: #9198a1; --grid: #30363d; --page: #0d1117;
    --svd: #59636e; --magnitude: #9198a1; --oats: #ab7df8; --wanda: #3fb950; --sparsegpt: #d29922; --hybrid: #4493f8;
    --best: #a5d6ff; --trained: #f778ba; --rounding: #f85149; } }
  .page { fill: var(--page); } .grid { stroke: var(--grid); fill: none; } text { fill: var(--faint); }
  .title, .strong { fill: var(--ink); } .title { font-weight: 600; font-size: 15px; }
  .right { text-anchor: end; } .middle { text-anchor: middle; } polyline { fill: none; stroke-width: 2; }
"""
NAMES = ("svd", "magnitude", "oats", "wanda", "sparsegpt", "hybrid", "best", "trained", "rounding", "ink")


def chart(rows: dict[str, dict]) -> str:
    """`rows`: row name -> its metrics, of which `stored_bytes` and `perplexity` are drawn. KeyError: a missing row."""
    figures = {name: (row["stored_bytes"] / 1e6, row["perplexity"]) for name, row in rows.items()}
    points = {name: place(*figure) for name, figure in figures.items()}
    title = "SmolLM2-135M-Instruct: perplexity on WikiText-2 against size on disk"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
            f"<style>{STYLE}{''.join(colors(name) for name in NAMES)}</style>",
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<clipPath id="plot"><path d="M{LEFT} {TOP}H{RIGHT}V{BOTTOM}H{LEFT}Z"/></clipPath>',
            text(LEFT, 24, title, "title"),
            *axes(),
            *(text(points[row][0], TOP - 8, words, "middle") for row, words in SPARSITIES),
            *(part for number, line in enumerate(LINES) for part in series(figures, number, *line)),
            marker(*points["dense"], "ink"),
            *(text(points[row][0] + x, points[row][1] + y, words, "middle strong") for row, words, (x, y) in LABELS),
            "</svg>\n",
        ]
    )


def place(size: float, perplexity: float) -> tuple[float, float]:
    """MB and perplexity -> pixels."""
    (small, large), (low, high) = SIZES, (math.log(end) for end in PERPLEXITIES)
    x = LEFT + (size - small) / (large - small) * (RIGHT - LEFT)
    return x, BOTTOM - (math.log(perplexity) - low) / (high - low) * (BOTTOM - TOP)


def axes() -> Iterable[str]:
    for size in X_TICKS:
        x, _ = place(size, 20)
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>'
        yield text(x, BOTTOM + 18, str(size), "middle")
    for perplexity in Y_TICKS:
        _, y = place(100, perplexity)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        yield text(LEFT - 8, y + 4, str(perplexity), "right")
    yield text((LEFT + RIGHT) / 2, BOTTOM + 40, "size on disk, MB", "middle")
    yield text(16, (TOP + BOTTOM) / 2, "perplexity (log scale)", "middle", ' transform="rotate(-90 16 {y:.1f})"')


def series(figures: dict[str, tuple[float, float]], number: int, label: str, names: str, rows: tuple) -> Iterable[str]:
    """Line, markers and legend entry of one series. Points above the plot are arrows with their perplexity."""
    drawn = [(place(*figures[row]), figures[row][1]) for row in rows]
    if len(drawn) > 1:
        ends = " ".join(f"{x:.1f},{y:.1f}" for (x, y), _ in drawn)
        yield f'<polyline class="{names.split()[0]}" points="{ends}" clip-path="url(#plot)"/>'
    for (x, y), perplexity in drawn:
        outside = perplexity > PERPLEXITIES[1]
        yield marker(x, TOP if outside else y, f"{names} arrow" if outside else names)
        if outside:
            yield text(x + 12, TOP + 16, f"{perplexity:.0f}")
    height = TOP + 10 + 26 * number
    yield marker(RIGHT + 32, height - 4, names)
    yield text(RIGHT + 48, height, label, "strong" if "hybrid" in label else "")


def marker(x: float, y: float, names: str) -> str:
    """A circle, unless `names` says square, diamond or arrow; hollow ones are larger, so that both are seen."""
    if "arrow" in names:
        return f'<path class="mark {names}" d="M{x - 6:.1f} {y + 10:.1f}L{x:.1f} {y:.1f}L{x + 6:.1f} {y + 10:.1f}Z"/>'
    if "square" in names or "diamond" in names:
        turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if "diamond" in names else ""
        return f'<rect class="mark {names}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"{turn}/>'
    return f'<circle class="mark {names}" cx="{x:.1f}" cy="{y:.1f}" r="{7 if "hollow" in names else 5}"/>'


def colors(name: str) -> str:
    color = f"var(--{name})"
    return (
        f"  polyline.{name}, .mark.{name} {{ stroke: {color}; }} .mark.{name} {{ fill: {color}; stroke-width: 2; }}"
        f" .mark.{name}.hollow {{ fill: var(--page); }}\n"
    )


def text(x: float, y: float, words: str, names: str = "", more: str = "") -> str:
    extra = more.format(y=y)
    return f'<text class="{names}" x="{x:.1f}" y="{y:.1f}"{extra}>{escape(words)}</text>'
