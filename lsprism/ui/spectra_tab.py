"""The lower half of the tab Layers: singular values before and after compression.

They are computed once per run, on demand, and kept in its folder.
"""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lsprism.charts import spectrum as chart
from lsprism.charts.layer_charts import get_projection
from lsprism.errors import SpecError
from lsprism.records.compression import LayerSpectrum
from lsprism.runs import Run, RunStore, start
from lsprism.specs import SpectraSpec, validate
from lsprism.ui.cards import render_empty
from lsprism.ui.context import Context, show_errors
from lsprism.ui.layer_sources import find_source
from lsprism.ui.plots import plot, render_downloads
from lsprism.ui.texts import layers as texts

POLL_S = 2.0
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
HINT = f'<p class="quiet">{texts.HINT}</p>'


class SpectraHandlers:
    def __init__(self, context: Context) -> None:
        self.runs, self.watch = context.runs, context.watch

    def compute(self, key: str | None) -> None:
        """Compute the missing ones in a run of its own, at low priority. `key`: see subjects."""
        with show_errors():
            found = find_source(self.watch, key)
            if found is None or found.artifact is None:
                raise SpecError(*texts.NO_COMPRESSION)
            start(self.runs, "spectra", validate(SpectraSpec, model_id=str(found.artifact), save_path=found.spectra))

    def update_state(self, key: str | None, seen: str) -> tuple[Any, ...]:
        """Text, button, choices of blocks and projections, the column of charts, and the mark."""
        found = find_source(self.watch, key)
        path = found.spectra if found else None
        worker = _find_worker(self.runs, path) if path else None
        done = found is not None and found.artifact is not None
        mark = f"{key} {_get_stamp(path)} {worker.state if worker else ''} {done}"
        if mark == seen:
            return (gr.skip(),) * 6
        if not done:
            hidden = gr.Button(visible=False), gr.skip(), gr.skip(), gr.Column(visible=False)
            return render_empty(texts.UNAVAILABLE), *hidden, mark
        return *_update_computed(read(path), worker), mark

    def update_charts(self, key: str | None, blocks: list[int], names: list[str]) -> tuple[Any, ...]:
        """Charts of values, energy and split for the selected matrices, and the downloads."""
        found = find_source(self.watch, key)
        sites = select_layers(read(found.spectra if found else None), blocks, names)
        if found is None or not sites:
            return None, None, None, ""
        name = f"spectra-{found.key.replace('/', '-')}"
        content = {"json": "[" + ",\n".join(site.model_dump_json() for site in sites) + "]", "csv": chart.to_csv(sites)}
        made = (chart.plot_values, chart.plot_energy, chart.plot_split)
        return (
            *(plot(draw(sites), f"{name}-{draw.__name__.removeprefix('plot_')}") for draw in made),
            render_downloads(name, content),
        )


def read(path: Path | None) -> tuple[LayerSpectrum, ...]:
    """The spectra computed so far; the file is parsed again only if it has changed."""
    return _load_spectra(path, _get_stamp(path)) if path else ()


@lru_cache(maxsize=4)
def _load_spectra(path: Path, stamp: tuple[int, int]) -> tuple[LayerSpectrum, ...]:
    return tuple(chart.read_spectra(path))


def _get_stamp(path: Path | None) -> tuple[int, int]:
    try:
        state = path.stat() if path else None
    except OSError:
        state = None
    return (state.st_mtime_ns, state.st_size) if state else (0, 0)


def select_layers(sites: Sequence[LayerSpectrum], blocks: Sequence[int], names: Sequence[str]) -> list[LayerSpectrum]:
    """The spectra of these blocks (counted from 1) and projections; the first of each by default."""
    if not sites:
        return []
    blocks = list(blocks or [sites[0].block + 1])
    names = list(names or [get_projection(sites[0])])
    return [site for site in sites if site.block + 1 in blocks and get_projection(site) in names]


def _find_worker(runs: RunStore, path: Path) -> Run | None:
    """The newest run that writes this file."""
    same = (run for run in runs.list_all() if run.verb == "spectra" and run.settings.get("save_path") == str(path))
    return next(same, None)


def _update_computed(sites: Sequence[LayerSpectrum], worker: Run | None) -> tuple[Any, ...]:
    """Text, button, choices and column of charts for what has been computed so far."""
    button = gr.Button(visible=worker is None or not (worker.is_active or worker.state == "done"))
    blocks = gr.Dropdown(choices=sorted({site.block + 1 for site in sites}))
    names = gr.Dropdown(choices=list(dict.fromkeys(get_projection(site) for site in sites)))
    return _format_hint(sites, worker), button, blocks, names, gr.Column(visible=bool(sites))


def _format_hint(sites: Sequence[LayerSpectrum], worker: Run | None) -> str:
    if worker and worker.is_active:
        return f'<p class="quiet">{texts.COMPUTING.format(count=len(sites))}</p>'
    if worker and worker.state == "failed":
        return f'<div class="note bad"><strong>{escape(worker.message)}</strong> {escape(worker.hint)}</div>'
    if not sites:
        return render_empty(texts.NOT_COMPUTED)
    return HINT


def build(context: Context, run: gr.Dropdown) -> None:
    """`run`: the dropdown of the upper half."""
    handlers = SpectraHandlers(context)
    gr.HTML(f"<h2>{texts.SPECTRA}</h2>")
    said = gr.HTML(elem_id="spectra-state")
    compute = gr.Button(texts.COMPUTE, visible=False, size="sm", elem_id="spectra-compute")
    with gr.Column(visible=False) as column:
        with gr.Group(elem_classes="panel"), gr.Row():
            blocks = gr.Dropdown([], multiselect=True, value=[], elem_id="spectra-blocks", **texts.BLOCKS)
            names = gr.Dropdown([], multiselect=True, value=[], elem_id="spectra-names", **texts.PROJECTIONS)
        values = gr.Plot(show_label=False, container=False, elem_id="spectra-values")
        with gr.Row():
            energy = gr.Plot(show_label=False, container=False, min_width=320)
            split = gr.Plot(show_label=False, container=False, min_width=320)
        files = gr.HTML()
    seen = gr.State("")
    known = [said, compute, blocks, names, column, seen]
    drawn = [values, energy, split, files]
    run.change(handlers.update_state, [run, seen], known, **QUIET)
    context.create_timer("layers", POLL_S).tick(handlers.update_state, [run, seen], known, queue=False, **QUIET)
    compute.click(handlers.compute, run, None, **QUIET).success(handlers.update_state, [run, seen], known, **QUIET)
    # Not seen.change: a change by a timer outside of the queue does not reach the listeners of a state.
    gr.on(
        [said.change, run.change, blocks.change, names.change],
        handlers.update_charts,
        [run, blocks, names],
        drawn,
        **QUIET,
    )
