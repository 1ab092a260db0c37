"""The controls of the tab Evaluate: one button for the whole study, and a form for single measurements."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lsprism.runs import Runs
from lsprism.specs import USUAL, MeasureSpec
from lsprism.ui import form, models
from lsprism.ui.choices import artifacts, choices

MEASURES = {
    "sizes": "Sizes: parameters kept, bytes on disk and in memory",
    "perplexity": "Perplexity: how surprised the model is by real text",
    "kl": "KL and top-1: how far its next-token guesses are from the original's",
    "text": "Text: its answers against the original's (BERTScore, ROUGE, similarity)",
    "speed": "Speed: tokens per second and time to the first token",
    "word-perplexity": "Word perplexity: comparable between tokenizers",
    "zero-shot": "Zero-shot: multiple-choice tasks of lm-eval, which is installed apart",
}
STUDY = (
    "Compresses the model to 0.3 and to 0.5, measures both beside the original under one protocol, and says which to"
    " take."
)


@dataclass(frozen=True)
class Parts:
    fields: dict[str, Any]  # name of the setting -> its component
    study: gr.Button
    measure: gr.Button


def build(runs: Runs) -> Parts:
    fields: dict[str, Any] = {}
    with gr.Group(elem_classes="panel"):
        gr.HTML("<h2>0.3 against 0.5</h2>", elem_classes="title")
        gr.HTML(f'<p class="quiet">{STUDY}</p>')
        fields["model"] = gr.Dropdown(
            [models.DEMO, *models.cached()], value=models.DEMO, label="Model", allow_custom_value=True,
            elem_id="evaluate-model",
        )  # fmt: skip
        fields["method"] = gr.Dropdown(list(form.METHODS), value="hybrid", label="Method", elem_id="evaluate-method")
        study = gr.Button("Run the whole study", variant="primary", elem_id="evaluate-study")
    with gr.Group(elem_classes="panel"):
        gr.HTML("<h2>Measure what is there</h2>", elem_classes="title")
        made = list(artifacts(runs))
        fields["artifacts"] = gr.Dropdown(
            choices(runs), value=made[:1], multiselect=True, allow_custom_value=True, label="Models",
            info="Each is compared with what it was made of", elem_id="evaluate-artifacts",
        )  # fmt: skip
        options = [(said, name) for name, said in MEASURES.items()]
        fields["measures"] = gr.CheckboxGroup(options, value=list(USUAL), label="Measures", elem_id="evaluate-measures")
        measure = gr.Button("Measure", elem_id="evaluate-start")
    with gr.Group(elem_classes="panel"):
        fields["quick"] = gr.Checkbox(
            False, label="Quick: a part of everything", elem_id="evaluate-quick",
            info="4 windows of text, 3 prompts a task. The figures say that they are of a part.",
        )  # fmt: skip
        with gr.Accordion("Details", open=False, elem_classes="fold", elem_id="evaluate-details"):
            _details(fields)
    return Parts(fields, study, measure)


def _details(fields: dict[str, Any]) -> None:
    """For both buttons."""
    fields["dataset"] = gr.Textbox(
        "auto", label="Text for perplexity and KL", max_lines=1, elem_id="evaluate-dataset",
        info="auto, wikitext2, embedded, a hub dataset OWNER/NAME, or a .txt, .jsonl or .parquet file",
    )  # fmt: skip
    fields["baseline"] = gr.Textbox(
        "auto", label="Compare with", max_lines=1, info="auto: what an artifact was made of; none: alone; or a model"
    )
    with gr.Row():
        fields["context"] = _count("Tokens per window", "0: 2048 where the model allows it")
        fields["windows"] = _count("Windows at most", "0: all")
        fields["limit"] = _count("Prompts per task at most", "0: all")
    with gr.Row():
        tasks = ", ".join(MeasureSpec.model_fields["zero_shot_tasks"].default)
        fields["zero_shot_tasks"] = gr.Textbox(tasks, label="Zero-shot tasks", max_lines=1, min_width=200)
        fields["zero_shot_limit"] = _count("Examples per task at most", "0: all")
    fields["device"] = gr.Textbox("auto", label="Device", info="auto, cpu, cuda or cuda:N", max_lines=1)


def _count(label: str, info: str) -> gr.Number:
    return gr.Number(0, label=label, info=info, precision=0, minimum=0)
