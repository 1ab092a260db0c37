"""Colors and layout of all charts; backgrounds are transparent, to fit light and dark pages."""

import plotly.graph_objects as go

PALETTE = ("#6b7280", "#2f6fed", "#d97706", "#0f9d8a", "#b4438a", "#7c5cd6")  # the baseline is gray
GRID = "rgba(128,128,128,0.22)"
INK = "#8a8f98"  # readable on white and on black
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def apply_style(figure: go.Figure, title: str, x: str = "", y: str = "", height: int = 360) -> go.Figure:
    """The same figure with title, axis labels and colors."""
    figure.update_layout(
        title={"text": title, "font": {"size": 16}, "x": 0, "xref": "paper"},
        height=height,
        margin={"l": 56, "r": 16, "t": 56, "b": 48},
        font={"family": FONT, "color": INK, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=list(PALETTE[1:]),
        legend={"orientation": "h", "y": -0.2},
        hoverlabel={"font": {"family": FONT}},
        barcornerradius=4,
    )
    figure.update_xaxes(title_text=x, gridcolor=GRID, zeroline=False, linecolor=GRID)
    figure.update_yaxes(title_text=y, gridcolor=GRID, zeroline=False, linecolor=GRID)
    return figure
