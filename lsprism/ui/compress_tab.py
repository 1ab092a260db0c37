"""The tab Compress: a form, the estimate for its settings, and the run that it starts."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from lsprism.errors import LSPrismError, SpecError
from lsprism.machine import get_free_memory
from lsprism.runs import resume, start
from lsprism.ui import compress_form, form_values
from lsprism.ui.cards import render_empty, render_progress_card, render_queue
from lsprism.ui.context import Context, show_errors, stop_run
from lsprism.ui.estimate_html import find_previous_seconds, render_estimate, render_refusal, render_waiting
from lsprism.ui.texts import common
from lsprism.ui.texts import compress as texts

POLL_S = 1.0
NOTHING = render_empty(texts.NO_RUN)
SHOW = "() => document.getElementById('compress-run').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


class CompressHandlers:
    """What the controls do; `values` are those of the form, by the names of the settings."""

    def __init__(self, context: Context) -> None:
        self.runs, self.watch, self.planner = context.runs, context.watch, context.planner

    def update_command(self, values: dict[str, Any]) -> tuple[str, str]:
        """The command and the YAML."""
        try:
            spec = form_values.make_spec(values)
        except LSPrismError as error:
            return f"# {error.message}", f"# {error.message}\n"
        return form_values.format_command(spec, self.runs), form_values.format_yaml(spec)

    def update_estimate(self, values: dict[str, Any], token: str) -> str:
        """The estimate for the current settings, as HTML."""
        try:
            spec = form_values.make_spec(values)
            runs = self.runs.list_all()
            finished = sum(run.state == "done" for run in runs)
            plan = self.planner.plan(form_values.make_plan_spec(spec), token.strip(), finished=finished)
            card = self.planner.get_free_bytes(plan.device)
        except LSPrismError as error:
            return render_refusal(error.message, error.hint)
        return render_estimate(plan, get_free_memory(), find_previous_seconds(runs, spec), card)

    def handle_start(self, values: dict[str, Any], token: str) -> str:
        """The id of the run that was started."""
        with show_errors():
            return start(self.runs, "compress", form_values.make_spec(values), token=token).id

    def handle_resume(self, run_id: str, token: str | None) -> None:
        """`token` is None if its field was never opened."""
        with show_errors():
            resume(self.runs, run_id, token=token or "")

    def load_settings(self, run_id: str) -> list[Any]:
        """The form's values from the selected run; SpecError if it is not a compression."""
        with show_errors():
            run = self.runs.get(run_id)
            if run.verb != "compress":
                raise SpecError(*texts.NOT_A_COMPRESSION)
        values = {**compress_form.DEFAULTS, **form_values.map_settings(run.settings)}  # an older run may lack some
        elsewhere = run.artifact is not None and not run.artifact.is_relative_to(self.runs.get_folder(run.id))
        values["save_path"] = str(run.artifact) if elsewhere else ""
        return [values[name] for name in compress_form.FIELDS]

    def handle_stop(self, run_id: str) -> None:
        stop_run(self.runs, run_id)

    def update_view(self, run_id: str, seen: str) -> tuple[Any, ...]:
        """Progress, log, Stop, Resume, Reuse settings, and the mark that keeps unchanged content from being sent."""
        live = [run for run in self.runs.list_all() if run.is_active]
        try:
            view = self.watch.get_view(run_id) if run_id else None
        except LSPrismError:
            view = None  # deleted in the meantime
        mark = f"{run_id} {view.mark if view else 0} {[(run.id, run.state) for run in live]}"
        if mark == seen:
            return (gr.skip(),) * 6
        if view is None or view.run.verb != "compress":
            hidden = gr.Button(visible=False)
            return NOTHING + render_queue(live, ""), "", gr.Button(interactive=False), hidden, hidden, mark
        log = view.log or "\n".join(view.said)
        stops, goes_on = gr.Button(interactive=view.run.is_active), gr.Button(visible=view.run.is_resumable)
        return (
            render_progress_card(view) + render_queue(live, run_id),
            log,
            stops,
            goes_on,
            gr.Button(visible=True),
            mark,
        )


def build(context: Context) -> None:
    """The form on the left, the estimate and the run on the right."""
    handlers = CompressHandlers(context)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320):
            parts = compress_form.build()
        with gr.Column(scale=6, min_width=320):
            with gr.Group(elem_classes="panel"):
                gr.HTML(f"<h2>{texts.ESTIMATE}</h2>", elem_classes="title")
                expected = gr.HTML(render_waiting(), elem_id="compress-estimate")
            with gr.Row(elem_classes="actions"):
                begin = gr.Button(common.START, variant="primary", elem_id="compress-start")
                end = gr.Button(common.STOP, interactive=False, elem_id="compress-stop")
                go_on = gr.Button(common.RESUME, visible=False, elem_id="compress-resume")
            card = gr.HTML(NOTHING, elem_id="compress-run")
            with gr.Row(elem_classes="actions few"):
                again = gr.Button(texts.REUSE, visible=False, size="sm", min_width=140, elem_id="compress-again")
            with gr.Group(elem_classes="panel"), gr.Accordion(common.LOG, open=False, elem_classes="fold"):
                log = gr.Textbox(
                    show_label=False, lines=8, max_lines=16, interactive=False, buttons=["copy"], elem_id="compress-log"
                )
    _register_form_events(handlers, parts, expected, context)
    seen, opened = gr.State(""), context.opened
    shown = [card, log, end, go_on, again, seen]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    named = _map_components(parts)
    begin.click(named(handlers.handle_start), {*parts.fields.values(), parts.token}, opened, **quiet).success(
        None, js=SHOW, api_visibility="private"
    )
    end.click(handlers.handle_stop, opened, None, **quiet).then(handlers.update_view, [opened, seen], shown, **quiet)
    go_on.click(handlers.handle_resume, [opened, parts.token], None, **quiet).then(
        handlers.update_view, [opened, seen], shown, **quiet
    )
    again.click(handlers.load_settings, opened, [parts.fields[name] for name in compress_form.FIELDS], **quiet)
    opened.change(handlers.update_view, [opened, seen], shown, **quiet)
    context.create_timer("compress", POLL_S).tick(handlers.update_view, [opened, seen], shown, queue=False, **quiet)


def _map_components(parts: compress_form.CompressForm) -> Callable[[Callable], Callable[[dict], Any]]:
    """Translate gradio's dict of components to names of settings; the token is passed separately."""

    def wrap(handler: Callable) -> Callable[[dict], Any]:
        def handle(said: dict) -> Any:
            values = {name: said[component] for name, component in parts.fields.items()}
            return handler(values, said[parts.token] or "") if parts.token in said else handler(values)

        return handle

    return wrap


def _register_form_events(
    handlers: CompressHandlers, parts: compress_form.CompressForm, expected: gr.HTML, context: Context
) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    fields = set(parts.fields.values())
    changes = [component.change for component in fields]
    named = _map_components(parts)
    gr.on(
        [*changes, context.page.load],
        named(handlers.update_command),
        fields,
        [parts.command, parts.yaml],
        queue=False,
        **quiet,
    )
    gr.on([*changes, context.page.load], named(handlers.update_estimate), {*fields, parts.token}, expected, **quiet)
