"""The lower half of the tab Layers: singular values before and after, computed once per run and kept in its folder."""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lsprism.charts import spectrum as chart
from lsprism.charts.layers import projection
from lsprism.errors import SpecError
from lsprism.reports import SiteSpectrum
from lsprism.runs import Run, Runs, start
from lsprism.specs import SpectraSpec, ask
from lsprism.ui.cards import empty
from lsprism.ui.context import Context, refusals
from lsprism.ui.plots import downloads, plot
from lsprism.ui.subjects import subject

POLL_S = 2.0
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
HINT = (
    '<p class="quiet">A matrix whose values fall fast has few directions that matter. Dotted: before; solid: after. '
    "Dashed line: rank of the factors. Circle and diamond: effective rank before and after, the number of directions "
    "that carry weight. S is the sparse part, L the product of the factors, W the original.</p>"
)


class Handlers:
    def __init__(self, context: Context) -> None:
        self.runs, self.watch = context.runs, context.watch

    def compute(self, key: str | None) -> None:
        """Start what is missing as a run of its own, at low priority. `key`: see subjects."""
        with refusals():
            found = subject(self.watch, key)
            if found is None or found.artifact is None:
                raise SpecError("There is no finished compression to look at.", "Choose another run above.")
            start(self.runs, "spectra", ask(SpectraSpec, model_id=str(found.artifact), save_path=found.spectra))

    def state(self, key: str | None, seen: str) -> tuple[Any, ...]:
        """What there is: text, the button, the choices of blocks and projections, the charts' place, and the mark."""
        found = subject(self.watch, key)
        path = found.spectra if found else None
        worker = _worker(self.runs, path) if path else None
        done = found is not None and found.artifact is not None
        mark = f"{key} {_stamp(path)} {worker.state if worker else ''} {done}"
        if mark == seen:
            return (gr.skip(),) * 6
        if not done:
            text = empty("No singular values yet", "They can be computed once a compression is done.")
            return text, gr.Button(visible=False), gr.skip(), gr.skip(), gr.Column(visible=False), mark
        return *_there(read(path), worker), mark

    def charts(self, key: str | None, blocks: list[int], names: list[str]) -> tuple[Any, ...]:
        """Values, energy, split, and the downloads, of what is chosen."""
        found = subject(self.watch, key)
        sites = chosen(read(found.spectra if found else None), blocks, names)
        if found is None or not sites:
            return None, None, None, ""
        name = f"spectra-{found.key.replace('/', '-')}"
        content = {"json": "[" + ",\n".join(site.model_dump_json() for site in sites) + "]", "csv": chart.to_csv(sites)}
        made = (chart.values, chart.energy, chart.split)
        return (*(plot(draw(sites), f"{name}-{draw.__name__}") for draw in made), downloads(name, content))


def read(path: Path | None) -> tuple[SiteSpectrum, ...]:
    """Those that are there; the file is parsed again only where it has changed."""
    return _parsed(path, _stamp(path)) if path else ()


@lru_cache(maxsize=4)
def _parsed(path: Path, stamp: tuple[int, int]) -> tuple[SiteSpectrum, ...]:
    return tuple(chart.read_spectra(path))


def _stamp(path: Path | None) -> tuple[int, int]:
    try:
        state = path.stat() if path else None
    except OSError:
        state = None
    return (state.st_mtime_ns, state.st_size) if state else (0, 0)


def chosen(sites: Sequence[SiteSpectrum], blocks: Sequence[int], names: Sequence[str]) -> list[SiteSpectrum]:
    """Those of the blocks (which count from 1) and projections; the first of each where none is chosen."""
    if not sites:
        return []
    blocks = list(blocks or [sites[0].block + 1])
    names = list(names or [projection(sites[0])])
    return [site for site in sites if site.block + 1 in blocks and projection(site) in names]


def _worker(runs: Runs, path: Path) -> Run | None:
    """The newest run that was to fill the file."""
    same = (run for run in runs.all() if run.verb == "spectra" and run.settings.get("save_path") == str(path))
    return next(same, None)


def _there(sites: Sequence[SiteSpectrum], worker: Run | None) -> tuple[Any, ...]:
    """Text, button, choices and the charts' place for what has been computed so far."""
    button = gr.Button(visible=worker is None or not (worker.live or worker.state == "done"))
    blocks = gr.Dropdown(choices=sorted({site.block + 1 for site in sites}))
    names = gr.Dropdown(choices=list(dict.fromkeys(projection(site) for site in sites)))
    return _said(sites, worker), button, blocks, names, gr.Column(visible=bool(sites))


def _said(sites: Sequence[SiteSpectrum], worker: Run | None) -> str:
    if worker and worker.live:
        return f'<p class="quiet">Computing … {len(sites)} matrices are done; they can be looked at already.</p>'
    if worker and worker.state == "failed":
        return f'<div class="note bad"><strong>{escape(worker.message)}</strong> {escape(worker.hint)}</div>'
    if not sites:
        return empty("Not computed yet", "It takes a minute for the demo and runs in the background; it is kept.")
    return HINT


def build(context: Context, run: gr.Dropdown) -> None:
    """`run`: the choice of the upper half."""
    handlers = Handlers(context)
    gr.HTML("<h2>Singular values</h2>")
    said = gr.HTML(elem_id="spectra-state")
    compute = gr.Button("Compute the singular values", visible=False, size="sm", elem_id="spectra-compute")
    with gr.Column(visible=False) as column:
        with gr.Group(elem_classes="panel"), gr.Row():
            blocks = gr.Dropdown([], label="Blocks", multiselect=True, value=[], elem_id="spectra-blocks")
            names = gr.Dropdown([], label="Projections", multiselect=True, value=[], elem_id="spectra-names")
        values = gr.Plot(show_label=False, container=False, elem_id="spectra-values")
        with gr.Row():
            energy = gr.Plot(show_label=False, container=False, min_width=320)
            split = gr.Plot(show_label=False, container=False, min_width=320)
        files = gr.HTML()
    seen = gr.State("")
    known = [said, compute, blocks, names, column, seen]
    drawn = [values, energy, split, files]
    run.change(handlers.state, [run, seen], known, **QUIET)
    context.timer("layers", POLL_S).tick(handlers.state, [run, seen], known, queue=False, **QUIET)
    compute.click(handlers.compute, run, None, **QUIET).success(handlers.state, [run, seen], known, **QUIET)
    # Not seen.change: what a timer changes outside of the queue tells a state's listeners nothing.
    gr.on([said.change, run.change, blocks.change, names.change], handlers.charts, [run, blocks, names], drawn, **QUIET)
