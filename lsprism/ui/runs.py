"""The tab Runs: the list of all runs, and the actions on one of them."""

from typing import Any

import gradio as gr

from lsprism.errors import LSPrismError, RequestError
from lsprism.runs import Run, Runs, resume
from lsprism.ui import ledger
from lsprism.ui.cards import empty
from lsprism.ui.context import Context, end_run, refusals
from lsprism.ui.texts import common, filled
from lsprism.ui.texts import runs as texts
from lsprism.ui.watch import View

POLL_S = 2.0
CHOOSE = empty(texts.NOT_SELECTED)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Handlers:
    """What the list and the buttons do."""

    def __init__(self, context: Context) -> None:
        self.runs, self.watch = context.runs, context.watch

    def list(self, seen: str) -> tuple[Any, Any, Any, str]:
        """The list, the runs to compare with, and the mark that keeps unchanged content from being sent again."""
        found = self.runs.all()
        mark = str([(run.id, run.state, run.notes, run.ended) for run in found])
        if mark == seen:
            return (gr.skip(),) * 4
        choices = [(ledger.label_of(run), run.id) for run in found]
        none = gr.HTML(ledger.NO_RUNS, visible=not found)
        return gr.Dataframe(ledger.rows(found), visible=bool(found)), none, gr.Dropdown(choices=choices), mark

    def look(self, run_id: str, seen: str) -> tuple[Any, ...]:
        """The page of one run, its log, notes and buttons, and the mark."""
        try:
            view = self.watch.view(run_id) if run_id else None
        except LSPrismError:
            view = None
        mark = f"{run_id} {view.mark if view else 0}"
        if mark == seen:
            return (gr.skip(),) * 7
        return (*(_page(view, self.runs) if view else NOTHING), mark)

    def resume(self, run_id: str) -> None:
        with refusals():
            resume(self.runs, run_id)

    def stop(self, run_id: str) -> None:
        end_run(self.runs, run_id)

    def note(self, run_id: str, text: str) -> None:
        with refusals():
            self.runs.note(run_id, text)

    def ask(self, run_id: str) -> tuple[Any, Any]:
        """Ask for confirmation before a run is deleted."""
        with refusals():
            run = self.runs.get(run_id)
            if run.live:
                raise RequestError(*filled(texts.STILL_ACTIVE, run=run_id, state=run.state))
        place = elsewhere(run, self.runs)
        label = texts.ARTIFACT_STAYS.format(place=place)
        return gr.Group(visible=True), gr.Textbox("", visible=bool(place), label=label)

    def delete(self, run_id: str, named: str) -> tuple[str, Any]:
        """Delete the folder of the run; an artifact elsewhere only if its path was typed."""
        with refusals():
            self.runs.delete(run_id, named.strip() or None)
        gr.Info(texts.DELETED)
        return "", gr.Group(visible=False)

    def compare(self, run_id: str, other_id: str | None) -> str:
        if not run_id or not other_id:
            return ""
        with refusals():
            return ledger.comparison(self.runs.get(run_id), self.runs.get(other_id))


def _page(view: View, runs: Runs) -> tuple[Any, ...]:
    """Page, log, notes, and buttons."""
    run = view.run
    page = ledger.page_of(run, str(runs.path(run.id)))
    resumes, stops = gr.Button(visible=run.goes_on), gr.Button(visible=run.live)
    return page, view.log or "\n".join(view.said), run.notes, gr.Row(visible=True), resumes, stops


NOTHING = CHOOSE, "", "", gr.update(visible=False), gr.skip(), gr.skip()


def elsewhere(run: Run, runs: Runs) -> str:
    """The path of an artifact outside of the run's folder; "" if there is none."""
    if run.verb != "compress" or run.artifact is None or run.artifact.is_relative_to(runs.path(run.id)):
        return ""
    return str(run.artifact) if run.artifact.exists() else ""


def build(context: Context) -> None:
    """The list on the left, the selected run on the right."""
    handlers, opened = Handlers(context), context.opened
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=7, min_width=320):
            none = gr.HTML(ledger.NO_RUNS, visible=False)
            table = gr.Dataframe(
                headers=list(ledger.HEADERS), datatype="str", interactive=False, show_search="search", max_height=560,
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
    table.select(_chosen, None, opened, **QUIET)
    for event in (opened.change, context.timer("runs", POLL_S).tick):
        event(handlers.look, [opened, seen], shown, queue=False, **QUIET)
    for event in (context.page.load, context.timer("runs", POLL_S).tick):
        event(handlers.list, seen_list, listed, queue=False, **QUIET)
    context.page.load(lambda: ("", ""), None, [seen, seen_list], queue=False, **QUIET)
    go_on.click(handlers.resume, opened, None, **QUIET)
    end.click(handlers.stop, opened, None, **QUIET)
    ask.click(handlers.ask, opened, [asking, named], **QUIET)
    keep.click(lambda: gr.Group(visible=False), None, asking, **QUIET)
    drop.click(handlers.delete, [opened, named], [opened, asking], **QUIET)
    gr.on([notes.submit, notes.blur], handlers.note, [opened, notes], None, **QUIET)
    gr.on([other.change, opened.change], handlers.compare, [opened, other], compared, **QUIET)
    to_layers.click(lambda: gr.Tabs(selected="layers"), None, context.tabs, **QUIET)
    to_progress.click(lambda: gr.Tabs(selected="compress"), None, context.tabs, **QUIET)


def _chosen(event: gr.SelectData) -> str:
    return str(event.row_value[-1])
