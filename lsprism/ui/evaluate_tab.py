"""The tab Evaluate: starts evaluations and sweeps as runs; shows their reports as a table and charts."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lsprism.charts.comparison import iter_charts
from lsprism.charts.table import build_comparison
from lsprism.runs import Run, resume, start
from lsprism.ui import evaluate_form, evaluate_html
from lsprism.ui.cards import render_empty
from lsprism.ui.context import Context, show_errors, stop_run
from lsprism.ui.model_choices import list_choices
from lsprism.ui.plots import copy_for_download, plot
from lsprism.ui.report_cache import FILES, ReportCache, find_report_file
from lsprism.ui.run_views import RunView
from lsprism.ui.runs_html import format_label
from lsprism.ui.texts import common
from lsprism.ui.texts import evaluate as texts

POLL_S = 1.0
CHARTS = 8  # at most
IDLE = render_empty(texts.IDLE)
# A click on a point opens its run on this page; with Ctrl it is an ordinary link.
OPENS = """element.addEventListener('click', (event) => {
  const link = event.target.closest('a');
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  trigger('click', {run: new URLSearchParams(link.getAttribute('href')).get('run')});
});"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Values = dict[str, Any]


class EvaluateHandlers:
    """What the controls do."""

    def __init__(self, context: Context) -> None:
        self.runs, self.watch, self.reports = context.runs, context.watch, ReportCache(context.runs)

    def handle_study(self, values: Values) -> str:
        """The id of the run that was started."""
        with show_errors():
            return start(self.runs, "sweep", evaluate_html.make_study_spec(values, self.runs)).id

    def handle_measure(self, values: Values) -> str:
        """Start a run for each model; the id of the first, which runs first."""
        with show_errors():
            specs = evaluate_html.make_evaluate_specs(values)
            return [start(self.runs, "evaluate", spec).id for spec in specs][0]

    def handle_stop(self, run_id: str) -> None:
        """Stop the selected evaluation, or else the one that is running."""
        for view in self._list_views(run_id)[:1]:
            stop_run(self.runs, view.run.id)

    def handle_resume(self, run_id: str) -> None:
        with show_errors():
            resume(self.runs, run_id)

    def update_view(self, run_id: str, seen: str) -> tuple[Any, ...]:
        """Progress of active runs, buttons, and the mark that keeps unchanged content from being sent again."""
        views = self._list_views(run_id)
        mark = str([(view.run.id, view.mark) for view in views])
        if mark == seen:
            return (gr.skip(),) * 4
        first = views[0].run if views else None
        stops = gr.Button(visible=first is not None and first.is_active)
        goes_on = gr.Button(visible=first is not None and first.id == run_id and first.is_resumable)
        return evaluate_html.render_running(views) or IDLE, stops, goes_on, mark

    def update_choices(self, run_id: str, chosen: list[str], seen: str) -> tuple[Any, ...]:
        """The scatter plot, the models and reports to choose from, and the mark.

        A report that was just made on this page is selected at once; else the newest if none is selected.
        """
        finished, models = self.reports.list_finished(), list_choices(self.runs)
        mark = f"{[run.id for run in finished]} {models}"
        if mark == seen:
            return (gr.skip(),) * 4
        ids = [run.id for run in finished]
        kept = [one for one in chosen or [] if one in ids]
        if not kept or (run_id in ids and run_id not in seen):
            kept = [one for one in [run_id, *ids] if one in ids][:1]
        listed = gr.Dropdown([(format_label(run), run.id) for run in finished], value=kept, multiselect=True)
        return evaluate_html.render_overview(self.reports.list_linked()), gr.Dropdown(choices=models), listed, mark

    def update_comparison(self, chosen: list[str]) -> list[Any]:
        """Table, files, the HTML report of the first run, and a chart for each metric."""
        runs = [run for run in self.reports.list_finished() if run.id in (chosen or [])]
        reports = [report for run in runs for report in self.reports.load(run)]
        table = build_comparison(reports)
        advice = [found for run in runs if (found := self.reports.get_recommendation(run)) is not None]
        figures = [one for one in iter_charts(table) if one.data[0].type == "bar"]  # the scatter plot is shown above
        shown = [gr.Plot(plot(one, f"evaluation-{n}"), visible=True) for n, one in enumerate(figures[:CHARTS])]
        hidden = [gr.Plot(None, visible=False)] * (CHARTS - len(shown))
        words = [evaluate_html.render_comparison(table, advice), evaluate_html.render_files(table, reports)]
        page = _render_page(runs[0]) if runs else gr.DownloadButton(visible=False)
        return [*words, page, *shown, *hidden]

    def select_run(self, run_id: str) -> Any:
        """Select the run that was opened, if it has a report."""
        return [run_id] if run_id in [run.id for run in self.reports.list_finished()] else gr.skip()

    def open(self, event: gr.EventData) -> tuple[str, Any]:
        """The run behind a point of the scatter plot."""
        with show_errors():
            return self.runs.get(str(event.run)).id, gr.Tabs(selected="runs")

    def _list_views(self, run_id: str) -> Sequence[RunView]:
        """The selected run first, then the active ones."""
        found = [run for run in self.runs.list_all() if run.verb in FILES]
        looked_at = [run for run in found if run.id == run_id]
        live: list[Run] = [run for run in reversed(found) if run.is_active and run.id != run_id]
        return [self.watch.get_view(run.id) for run in looked_at + live]


def _render_page(run: Run) -> Any:
    """The whole report as one file, with charts and all outputs."""
    path = find_report_file(run, "html")
    if path is None:
        return gr.DownloadButton(visible=False)
    try:
        return gr.DownloadButton(value=copy_for_download(path, f"{run.verb}-{run.id}.html"), visible=True)
    except OSError:  # deleted, or the disk is full
        return gr.DownloadButton(visible=False)


def build(context: Context) -> None:
    """The form on the left, active runs and results on the right."""
    handlers, opened = EvaluateHandlers(context), context.opened
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=4, min_width=320):
            parts = evaluate_form.build(context.runs)
        with gr.Column(scale=8, min_width=320):
            work = gr.HTML(IDLE, elem_id="evaluate-work")
            with gr.Row(elem_classes="actions few"):
                end = gr.Button(common.STOP, size="sm", visible=False, min_width=84, elem_id="evaluate-stop")
                go_on = gr.Button(common.RESUME, size="sm", visible=False, min_width=84, elem_id="evaluate-resume")
            board = gr.HTML(evaluate_html.NO_BOARD, elem_id="evaluate-board", js_on_load=OPENS)
            with gr.Group(elem_classes="panel"):
                chosen = gr.Dropdown(
                    [], multiselect=True, elem_id="evaluate-chosen", **texts.COMPARE,
                )  # fmt: skip
            table = gr.HTML(evaluate_html.NO_REPORT, elem_id="evaluate-table")
            with gr.Row(elem_classes="actions few"):
                files = gr.HTML("", elem_id="evaluate-files")
                page = gr.DownloadButton(
                    texts.HTML_REPORT, visible=False, size="sm", min_width=180, elem_id="evaluate-page"
                )
            with gr.Row(elem_classes="charts"):
                plots = [gr.Plot(visible=False, show_label=False, min_width=320) for _ in range(CHARTS)]
    seen, seen_known = gr.State(""), gr.State("")
    shown, listed = [work, end, go_on, seen], [board, parts.fields["artifacts"], chosen, seen_known]
    fields = set(parts.fields.values())
    parts.study.click(_map_components(parts, handlers.handle_study), fields, opened, **QUIET)
    parts.measure.click(_map_components(parts, handlers.handle_measure), fields, opened, **QUIET)
    end.click(handlers.handle_stop, opened, None, **QUIET)
    go_on.click(handlers.handle_resume, opened, None, **QUIET)
    for event in (opened.change, context.create_timer("evaluate", POLL_S).tick):
        event(handlers.update_view, [opened, seen], shown, queue=False, **QUIET)
    for event in (context.page.load, context.create_timer("evaluate", 2 * POLL_S).tick):
        event(handlers.update_choices, [opened, chosen, seen_known], listed, queue=False, **QUIET)
    context.page.load(lambda: ("", ""), None, [seen, seen_known], queue=False, **QUIET)
    opened.change(handlers.select_run, opened, chosen, queue=False, **QUIET)
    board.click(handlers.open, None, [opened, context.tabs], queue=False, **QUIET)
    chosen.change(handlers.update_comparison, chosen, [table, files, page, *plots], **QUIET)


def _map_components(parts: evaluate_form.EvaluateForm, handler: Any) -> Any:
    """Translate gradio's dict of components to names of settings."""

    def handle(said: dict) -> Any:
        return handler({name: said[component] for name, component in parts.fields.items()})

    return handle
