"""The tab Layers: where a model was cut, how deep, and what that did to each layer."""

from typing import Any

import gradio as gr

from lsprism.charts.layers import MEASURES, block_bars, heat_map, to_csv
from lsprism.errors import LSPrismError
from lsprism.ui import layers_spectra, ledger
from lsprism.ui.cards import empty
from lsprism.ui.context import Context
from lsprism.ui.plots import downloads, plot
from lsprism.ui.watch import View

POLL_S = 2.0
NOTHING = empty("No layers to look at", "Compress a model first, or choose a run above that has got through a block.")
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Handlers:
    def __init__(self, context: Context) -> None:
        self.runs, self.watch = context.runs, context.watch

    def choices(self, seen: str) -> tuple[Any, str]:
        """Runs that can be looked at: all compressions."""
        found, mark = self._found()
        return (gr.skip(), gr.skip()) if mark == seen else (gr.Dropdown(choices=found), mark)

    def open(self, run_id: str) -> tuple[Any, str]:
        """The same, with the run that the page was just turned to."""
        found, mark = self._found()
        there = run_id in (known for _, known in found)
        return gr.Dropdown(choices=found, value=run_id) if there else gr.Dropdown(choices=found), mark

    def _found(self) -> tuple[list[tuple[str, str]], str]:
        found = [(ledger.label_of(run), run.id) for run in self.runs.all() if run.verb == "compress"]
        return found, str(found)

    def view(self, run_id: str | None) -> View | None:
        try:
            return self.watch.view(run_id) if run_id else None
        except LSPrismError:
            return None

    def charts(self, run_id: str | None, measure: str, seen: str) -> tuple[Any, ...]:
        """Heat map, bars, their explanation, the downloads, and the mark."""
        view = self.view(run_id)
        mark = f"{run_id} {measure} {len(view.layers) if view else 0}"
        if mark == seen:
            return (gr.skip(),) * 6
        if view is None or not view.layers:
            return None, None, NOTHING, "", gr.Column(visible=False), mark
        name = f"layers-{view.run.id}"
        content = {"csv": to_csv(view.layers), "json": _json(view)}
        hint = f'<p class="quiet">{MEASURES[measure].hint}</p>'
        figures = (
            plot(heat_map(view.layers, measure), f"{name}-{measure}"),
            plot(block_bars(view.layers, measure), name),
        )
        return (*figures, hint, downloads(name, content), gr.Column(visible=True), mark)


def _hint(measure: str) -> str:
    return f'<p class="quiet">{MEASURES[measure].hint}</p>'


def _json(view: View) -> str:
    return "[" + ",\n".join(layer.model_dump_json() for layer in view.layers) + "]"


def build(context: Context) -> None:
    """Choose a run and a measure; below them the charts."""
    handlers = Handlers(context)
    with gr.Group(elem_classes="panel"), gr.Row():
        run = gr.Dropdown([], label="Run", value=None, scale=3, min_width=280, elem_id="layers-run")
        measure = gr.Radio(
            [(m.title, key) for key, m in MEASURES.items()], value="error", label="Measure", scale=4, min_width=280,
            elem_id="layers-measure",
        )  # fmt: skip
    hint = gr.HTML(NOTHING, elem_id="layers-hint")
    with gr.Column(visible=False) as charts:
        heat = gr.Plot(show_label=False, elem_id="layers-heat", container=False)
        bars = gr.Plot(show_label=False, elem_id="layers-bars", container=False)
        files = gr.HTML()
    layers_spectra.build(context, run)
    seen, seen_runs = gr.State(""), gr.State("")
    shown = [heat, bars, hint, files, charts, seen]
    gr.Timer(POLL_S).tick(handlers.choices, seen_runs, [run, seen_runs], queue=False, **QUIET)
    gr.on([run.change, measure.change], handlers.charts, [run, measure, seen], shown, **QUIET)
    gr.Timer(POLL_S).tick(handlers.charts, [run, measure, seen], shown, queue=False, **QUIET)
    context.opened.change(handlers.open, context.opened, [run, seen_runs], **QUIET)
