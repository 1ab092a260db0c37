"""The tab Runs: the list of all runs, and the actions on one of them."""

from typing import Any

import gradio as gr

from lsprism.errors import LSPrismError, RequestError
from lsprism.runs import Run, RunStore, resume
from lsprism.ui import runs_html
from lsprism.ui.cards import render_empty
from lsprism.ui.context import Context, show_errors, stop_run
from lsprism.ui.run_views import RunView
from lsprism.ui.texts import common, fill_names
from lsprism.ui.texts import runs as texts

POLL_S = 2.0
CHOOSE = render_empty(texts.NOT_SELECTED)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class RunsHandlers:
    """What the list and the buttons do."""

    def __init__(self, context: Context) -> None:
        self.runs, self.watch = context.runs, context.watch

    def update_list(self, seen: str) -> tuple[Any, Any, Any, str]:
        """The list, the runs to compare with, and the mark that keeps unchanged content from being sent again."""
        found = self.runs.list_all()
        mark = str([(run.id, run.state, run.notes, run.ended) for run in found])
        if mark == seen:
            return (gr.skip(),) * 4
        choices = [(runs_html.format_label(run), run.id) for run in found]
        none = gr.HTML(runs_html.NO_RUNS, visible=not found)
        return gr.Dataframe(runs_html.make_rows(found), visible=bool(found)), none, gr.Dropdown(choices=choices), mark

    def update_view(self, run_id: str, seen: str) -> tuple[Any, ...]:
        """The page of one run, its log, notes and buttons, and the mark."""
        try:
            view = self.watch.get_view(run_id) if run_id else None
        except LSPrismError:
            view = None
        mark = f"{run_id} {view.mark if view else 0}"
        if mark == seen:
            return (gr.skip(),) * 7
        return (*(_update_page(view, self.runs) if view else NOTHING), mark)

    def handle_resume(self, run_id: str) -> None:
        with show_errors():
            resume(self.runs, run_id)

    def handle_stop(self, run_id: str) -> None:
        stop_run(self.runs, run_id)

    def handle_note(self, run_id: str, text: str) -> None:
        with show_errors():
            self.runs.set_notes(run_id, text)

    def update_delete_prompt(self, run_id: str) -> tuple[Any, Any]:
        """Ask for confirmation before a run is deleted."""
        with show_errors():
            run = self.runs.get(run_id)
            if run.is_active:
                raise RequestError(*fill_names(texts.STILL_ACTIVE, run=run_id, state=run.state))
        place = find_outside_artifact(run, self.runs)
        label = texts.ARTIFACT_STAYS.format(place=place)
        return gr.Group(visible=True), gr.Textbox("", visible=bool(place), label=label)

    def handle_delete(self, run_id: str, named: str) -> tuple[str, Any]:
        """Delete the folder of the run; an artifact elsewhere only if its path was typed."""
        with show_errors():
            self.runs.delete(run_id, named.strip() or None)
        gr.Info(texts.DELETED)
        return "", gr.Group(visible=False)

    def update_comparison(self, run_id: str, other_id: str | None) -> str:
        if not run_id or not other_id:
            return ""
        with show_errors():
            return runs_html.render_comparison(self.runs.get(run_id), self.runs.get(other_id))


def _update_page(view: RunView, runs: RunStore) -> tuple[Any, ...]:
    """Page, log, notes, and buttons."""
    run = view.run
    page = runs_html.render_run(run, str(runs.get_folder(run.id)))
    resumes, stops = gr.Button(visible=run.is_resumable), gr.Button(visible=run.is_active)
    return page, view.log or "\n".join(view.said), run.notes, gr.Row(visible=True), resumes, stops


NOTHING = CHOOSE, "", "", gr.update(visible=False), gr.skip(), gr.skip()


def find_outside_artifact(run: Run, runs: RunStore) -> str:
    """The path of an artifact outside of the run's folder; "" if there is none."""
    if run.verb != "compress" or run.artifact is None or run.artifact.is_relative_to(runs.get_folder(run.id)):
        return ""
    return str(run.artifact) if run.artifact.exists() else ""


def build(context: Context) -> None:
    """The list on the left, the selected run on the right."""
    handlers, opened = RunsHandlers(context), context.opened
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=7, min_width=320):
            none = gr.HTML(runs_html.NO_RUNS, visible=False)
            table = gr.Dataframe(
                headers=list(runs_html.HEADERS), datatype="str", interactive=False, show_search="search",
                max_height=560,
                wrap=False, elem_id="runs-table", show_label=False, buttons=[],
                column_widths=[200, 84, 84, 110, 100, 100, 190],
            )  # fmt: skip
        with gr.Column(scale=5, min_width=320):
            page = gr.HTML(CHOOSE, elem_id="runs-page")
            with gr.Row(visible=False, elem_classes="actions") as actions:
                to_layers = gr.Button(texts.LAYERS, size="sm", elem_id="runs-layers")
                to_progress = gr.Button(texts.PROGRESS, size="sm", elem_id="runs-progress")
                go_on = gr.Button(common.RESUME, size="sm", elem_id="runs-resume")
                end = gr.Button(common.STOP, size="sm", elem_id="runs-stop")
                ask = gr.Button(texts.DELETE, size="sm", variant="stop", elem_id="runs-delete")
            with gr.Group(visible=False, elem_classes="panel") as asking:
                gr.HTML(f"<p>{texts.CONFIRM}</p>")
                named = gr.Textbox("", info=texts.ARTIFACT_TOO, max_lines=1, visible=False)
                with gr.Row():
                    keep = gr.Button(texts.KEEP, size="sm")
                    drop = gr.Button(texts.DELETE_NOW, size="sm", variant="stop", elem_id="runs-delete-sure")
            with gr.Group(elem_classes="panel"):
                notes = gr.Textbox(lines=1, max_lines=6, elem_id="runs-notes", **texts.NOTES)
                other = gr.Dropdown([], value=None, elem_id="runs-other", **texts.COMPARE)
                compared = gr.HTML()
            with gr.Group(elem_classes="panel"), gr.Accordion(common.LOG, open=False, elem_classes="fold"):
                log = gr.Textbox(show_label=False, lines=8, max_lines=18, interactive=False, buttons=["copy"])
    seen, seen_list = gr.State(""), gr.State("")
    listed = [table, none, other, seen_list]
    shown = [page, log, notes, actions, go_on, end, seen]
    table.select(_get_chosen, None, opened, **QUIET)
    for event in (opened.change, context.create_timer("runs", POLL_S).tick):
        event(handlers.update_view, [opened, seen], shown, queue=False, **QUIET)
    for event in (context.page.load, context.create_timer("runs", POLL_S).tick):
        event(handlers.update_list, seen_list, listed, queue=False, **QUIET)
    context.page.load(lambda: ("", ""), None, [seen, seen_list], queue=False, **QUIET)
    go_on.click(handlers.handle_resume, opened, None, **QUIET)
    end.click(handlers.handle_stop, opened, None, **QUIET)
    ask.click(handlers.update_delete_prompt, opened, [asking, named], **QUIET)
    keep.click(lambda: gr.Group(visible=False), None, asking, **QUIET)
    drop.click(handlers.handle_delete, [opened, named], [opened, asking], **QUIET)
    gr.on([notes.submit, notes.blur], handlers.handle_note, [opened, notes], None, **QUIET)
    gr.on([other.change, opened.change], handlers.update_comparison, [opened, other], compared, **QUIET)
    to_layers.click(lambda: gr.Tabs(selected="layers"), None, context.tabs, **QUIET)
    to_progress.click(lambda: gr.Tabs(selected="compress"), None, context.tabs, **QUIET)


def _get_chosen(event: gr.SelectData) -> str:
    return str(event.row_value[-1])
