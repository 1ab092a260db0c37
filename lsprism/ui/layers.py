"""The tab Layers: sparsity, rank, size and error of each layer of a compressed model."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lsprism.charts.layers import MEASURES, block_bars, heat_map, to_csv
from lsprism.reports import LayerReport
from lsprism.ui import layers_spectra, subjects
from lsprism.ui.cards import empty
from lsprism.ui.context import Context
from lsprism.ui.plots import downloads, plot
from lsprism.ui.texts import layers as texts

POLL_S = 2.0
NOTHING = empty(texts.NO_LAYERS)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Handlers:
    def __init__(self, context: Context) -> None:
        self.watch = context.watch

    def choices(self, seen: str) -> tuple[Any, str]:
        """The runs and artifacts to choose from."""
        found = subjects.choices(self.watch)
        mark = str(found)
        return (gr.skip(), gr.skip()) if mark == seen else (gr.Dropdown(choices=found), mark)

    def open(self, run_id: str) -> tuple[Any, str]:
        """The same, with the run that was just opened."""
        found = subjects.choices(self.watch)
        meant = [key for _, key in found if key.partition("/")[0] == run_id]  # the first one of a sweep
        return gr.Dropdown(choices=found, value=meant[0]) if meant else gr.Dropdown(choices=found), str(found)

    def charts(self, key: str | None, measure: str, seen: str) -> tuple[Any, ...]:
        """Heat map, bars, their explanation, downloads, and the mark."""
        found = subjects.subject(self.watch, key)
        mark = f"{key} {measure} {len(found.layers) if found else 0}"
        if mark == seen:
            return (gr.skip(),) * 6
        if found is None or not found.layers:
            return None, None, NOTHING, "", gr.Column(visible=False), mark
        name = f"layers-{found.key.replace('/', '-')}"
        content = {"csv": to_csv(found.layers), "json": _json(found.layers)}
        hint = f'<p class="quiet">{MEASURES[measure].hint}</p>'
        figures = (
            plot(heat_map(found.layers, measure), f"{name}-{measure}"),
            plot(block_bars(found.layers, measure), name),
        )
        return (*figures, hint, downloads(name, content), gr.Column(visible=True), mark)


def _json(layers: Sequence[LayerReport]) -> str:
    return "[" + ",\n".join(layer.model_dump_json() for layer in layers) + "]"


def build(context: Context) -> None:
    """The choice of a run and a metric, and the charts."""
    handlers = Handlers(context)
    with gr.Group(elem_classes="panel"), gr.Row():
        run = gr.Dropdown([], value=None, scale=3, min_width=280, elem_id="layers-run", **texts.RUN)
        measure = gr.Radio(
            [(m.title, key) for key, m in MEASURES.items()], value="error", scale=4, min_width=280,
            elem_id="layers-measure", **texts.METRIC,
        )  # fmt: skip
    hint = gr.HTML(NOTHING, elem_id="layers-hint")
    with gr.Column(visible=False) as charts:
        heat = gr.Plot(show_label=False, elem_id="layers-heat", container=False)
        bars = gr.Plot(show_label=False, elem_id="layers-bars", container=False)
        files = gr.HTML()
    layers_spectra.build(context, run)
    seen, seen_runs = gr.State(""), gr.State("")
    shown = [heat, bars, hint, files, charts, seen]
    context.timer("layers", POLL_S).tick(handlers.choices, seen_runs, [run, seen_runs], queue=False, **QUIET)
    gr.on([run.change, measure.change], handlers.charts, [run, measure, seen], shown, **QUIET)
    context.timer("layers", POLL_S).tick(handlers.charts, [run, measure, seen], shown, queue=False, **QUIET)
    context.opened.change(handlers.open, context.opened, [run, seen_runs], **QUIET)
