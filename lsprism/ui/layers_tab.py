"""The tab Layers: sparsity, rank, size and error of each layer of a compressed model."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lsprism.charts.layer_charts import METRICS, plot_block_bars, plot_heat_map, to_csv
from lsprism.records.compression import LayerReport
from lsprism.ui import layer_sources, spectra_tab
from lsprism.ui.cards import render_empty
from lsprism.ui.context import Context
from lsprism.ui.plots import plot, render_downloads
from lsprism.ui.texts import layers as texts

POLL_S = 2.0
NOTHING = render_empty(texts.NO_LAYERS)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class LayersHandlers:
    def __init__(self, context: Context) -> None:
        self.watch = context.watch

    def update_choices(self, seen: str) -> tuple[Any, str]:
        """The runs and artifacts to choose from."""
        found = layer_sources.list_choices(self.watch)
        mark = str(found)
        return (gr.skip(), gr.skip()) if mark == seen else (gr.Dropdown(choices=found), mark)

    def open(self, run_id: str) -> tuple[Any, str]:
        """The same, with the run that was just opened."""
        found = layer_sources.list_choices(self.watch)
        meant = [key for _, key in found if key.partition("/")[0] == run_id]  # the first one of a sweep
        return gr.Dropdown(choices=found, value=meant[0]) if meant else gr.Dropdown(choices=found), str(found)

    def update_charts(self, key: str | None, measure: str, seen: str) -> tuple[Any, ...]:
        """Heat map, bars, their explanation, downloads, and the mark."""
        found = layer_sources.find_source(self.watch, key)
        mark = f"{key} {measure} {len(found.layers) if found else 0}"
        if mark == seen:
            return (gr.skip(),) * 6
        if found is None or not found.layers:
            return None, None, NOTHING, "", gr.Column(visible=False), mark
        name = f"layers-{found.key.replace('/', '-')}"
        content = {"csv": to_csv(found.layers), "json": _to_json(found.layers)}
        hint = f'<p class="quiet">{METRICS[measure].hint}</p>'
        figures = (
            plot(plot_heat_map(found.layers, measure), f"{name}-{measure}"),
            plot(plot_block_bars(found.layers, measure), name),
        )
        return (*figures, hint, render_downloads(name, content), gr.Column(visible=True), mark)


def _to_json(layers: Sequence[LayerReport]) -> str:
    return "[" + ",\n".join(layer.model_dump_json() for layer in layers) + "]"


def build(context: Context) -> None:
    """The choice of a run and a metric, and the charts."""
    handlers = LayersHandlers(context)
    with gr.Group(elem_classes="panel"), gr.Row():
        run = gr.Dropdown([], value=None, scale=3, min_width=280, elem_id="layers-run", **texts.RUN)
        measure = gr.Radio(
            [(m.title, key) for key, m in METRICS.items()], value="error", scale=4, min_width=280,
            elem_id="layers-measure", **texts.METRIC,
        )  # fmt: skip
    hint = gr.HTML(NOTHING, elem_id="layers-hint")
    with gr.Column(visible=False) as charts:
        heat = gr.Plot(show_label=False, elem_id="layers-heat", container=False)
        bars = gr.Plot(show_label=False, elem_id="layers-bars", container=False)
        files = gr.HTML()
    spectra_tab.build(context, run)
    seen, seen_runs = gr.State(""), gr.State("")
    shown = [heat, bars, hint, files, charts, seen]
    context.create_timer("layers", POLL_S).tick(
        handlers.update_choices, seen_runs, [run, seen_runs], queue=False, **QUIET
    )
    gr.on([run.change, measure.change], handlers.update_charts, [run, measure, seen], shown, **QUIET)
    context.create_timer("layers", POLL_S).tick(
        handlers.update_charts, [run, measure, seen], shown, queue=False, **QUIET
    )
    context.opened.change(handlers.open, context.opened, [run, seen_runs], **QUIET)
