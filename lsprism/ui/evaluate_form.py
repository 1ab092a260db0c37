"""The controls of the tab Evaluate: a button for a sweep, and a form for single evaluations."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lsprism.metric_declarations import USUAL, list_summaries
from lsprism.runs import RunStore
from lsprism.specs import MeasureSpec
from lsprism.ui import cached_models, form_values
from lsprism.ui.model_choices import list_artifacts, list_choices
from lsprism.ui.texts import common, get_field_texts
from lsprism.ui.texts import evaluate as texts


@dataclass(frozen=True)
class EvaluateForm:
    fields: dict[str, Any]  # name of the setting -> its component
    study: gr.Button
    measure: gr.Button


def build(runs: RunStore) -> EvaluateForm:
    fields: dict[str, Any] = {}
    with gr.Group(elem_classes="panel"):
        gr.HTML(f"<h2>{texts.SWEEP}</h2>", elem_classes="title")
        gr.HTML(f'<p class="quiet">{texts.SWEEP_INFO}</p>')
        fields["model"] = gr.Dropdown(
            [cached_models.DEMO, *cached_models.list_cached()], value=cached_models.DEMO, allow_custom_value=True,
            elem_id="evaluate-model", **texts.MODEL,
        )  # fmt: skip
        fields["method"] = gr.Dropdown(
            list(form_values.METHODS), value="hybrid", elem_id="evaluate-method", **texts.METHOD
        )
        study = gr.Button(texts.RUN_SWEEP, variant="primary", elem_id="evaluate-study")
    with gr.Group(elem_classes="panel"):
        gr.HTML(f"<h2>{texts.EXISTING}</h2>", elem_classes="title")
        made = list(list_artifacts(runs))
        fields["artifacts"] = gr.Dropdown(
            list_choices(runs), value=made[:1], multiselect=True, allow_custom_value=True,
            elem_id="evaluate-artifacts", **texts.MODELS,
        )  # fmt: skip
        options = [(text, name) for name, text in list_summaries().items()]
        fields["measures"] = gr.CheckboxGroup(options, value=list(USUAL), elem_id="evaluate-measures", **texts.METRICS)
        measure = gr.Button(texts.EVALUATE, elem_id="evaluate-start")
    with gr.Group(elem_classes="panel"):
        fields["quick"] = gr.Checkbox(False, elem_id="evaluate-quick", **texts.QUICK)
        with gr.Accordion(texts.DETAILS, open=False, elem_classes="fold", elem_id="evaluate-details"):
            _build_details(fields)
    return EvaluateForm(fields, study, measure)


def _build_details(fields: dict[str, Any]) -> None:
    """Settings for both buttons."""
    fields["dataset"] = gr.Textbox("auto", max_lines=1, elem_id="evaluate-dataset", **texts.DATASET)
    fields["baseline"] = gr.Textbox("auto", max_lines=1, **texts.BASELINE)
    with gr.Row():
        fields["context"] = _count(texts.CONTEXT)
        fields["windows"] = _count(texts.WINDOWS)
        fields["limit"] = _count(texts.LIMIT)
    with gr.Row():
        tasks = ", ".join(MeasureSpec.model_fields["zero_shot_tasks"].default)
        fields["zero_shot_tasks"] = gr.Textbox(tasks, max_lines=1, min_width=200, **texts.ZERO_SHOT_TASKS)
        fields["zero_shot_limit"] = _count(texts.ZERO_SHOT_LIMIT)
    fields["device"] = gr.Textbox("auto", max_lines=1, **get_field_texts(texts.DEVICE, common.DEVICES))


def _count(text: dict[str, Any]) -> gr.Number:
    return gr.Number(0, precision=0, minimum=0, **text)
