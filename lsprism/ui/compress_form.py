"""The controls of the tab Compress: the few that matter in sight, the others folded away with sane defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from lsprism.errors import SpecError
from lsprism.reports import ValuesName
from lsprism.specs import (
    JOINED,
    PATTERNED,
    AllocationName,
    BosName,
    CalibrationSpec,
    CompressSpec,
    DtypeName,
    EffortName,
    PatternName,
)
from lsprism.ui import form, models
from lsprism.ui.context import refusals

DEFAULTS: dict[str, Any] = {
    name: field.default for spec in (CompressSpec, CalibrationSpec) for name, field in spec.model_fields.items()
}
SOURCES = [
    ("Automatic", "auto"),
    ("WikiText-2 (from the hub)", "wikitext2"),
    ("Embedded text (offline)", "embedded"),
    ("Text of the model's own", "self"),
]
GATED = """Some models, such as Llama-3.1-8B, open only to accounts that accepted their licence:

1. Open the model's page on huggingface.co and accept the licence.
2. Make a token with the right to read at huggingface.co/settings/tokens.
3. Paste it here. It is kept in memory only, and handed to the run without being written anywhere."""


@dataclass(frozen=True)
class Parts:
    fields: dict[str, Any]  # name of the setting -> its component
    token: gr.Textbox
    command: gr.Code
    yaml: gr.Code


def build() -> Parts:
    """All controls, and those of their events that concern the form alone."""
    fields: dict[str, Any] = {}
    with gr.Group(elem_classes="panel"):
        gr.HTML("<h2>Model</h2>", elem_classes="title")
        fields["model_id"] = gr.Dropdown(
            _models(),
            value=models.DEMO,
            show_label=False,
            allow_custom_value=True,
            filterable=True,
            elem_id="model",
        )
        gr.HTML('<p class="quiet">demo, a model of the local cache, a hub id, a folder or a .gguf file.</p>')
        with gr.Accordion("Gated model?", open=False, elem_classes="fold"):
            gr.Markdown(GATED)
            token = gr.Textbox(type="password", label="Hub token", elem_id="token", autofocus=False)
    _amount(fields)
    with gr.Group(elem_classes="panel"), gr.Accordion("Details", open=False, elem_classes="fold"):
        _details(fields)
    command, yaml = _words(fields)
    return Parts(fields, token, command, yaml)


def _models() -> list[str]:
    return [models.DEMO, *models.cached()]


def _amount(fields: dict[str, Any]) -> None:
    """How much goes, and by which method."""
    with gr.Group(elem_classes="panel"):
        gr.HTML("<h2>How much goes</h2>", elem_classes="title")
        preset = gr.Radio(
            [*form.PRESETS, form.CUSTOM], value=form.preset_of(0.5), show_label=False, container=False, elem_id="preset"
        )
        fields["sparsity"] = gr.Slider(
            0.05, 0.95, value=0.5, step=0.01, label="Sparsity", elem_id="sparsity",
            info="Share of the layers' parameters that is removed",
        )  # fmt: skip
        sentence = gr.HTML(_said(form.sentence_of(0.5)))
        fields["method"] = gr.Dropdown(list(form.METHODS), value="hybrid", label="Method", elem_id="method")
        method_sentence = gr.HTML(_said(form.METHODS["hybrid"]))
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    preset.input(_slider_of, preset, fields["sparsity"], **quiet)
    fields["sparsity"].change(_preset_of, fields["sparsity"], [preset, sentence], trigger_mode="always_last", **quiet)
    fields["method"].change(lambda name: _said(form.METHODS.get(name, "")), fields["method"], method_sentence, **quiet)


def _details(fields: dict[str, Any]) -> None:
    def number(name: str, label: str, info: str, **more: Any) -> gr.Number:
        return gr.Number(DEFAULTS[name], precision=0, label=label, info=info, min_width=120, elem_id=name, **more)

    with gr.Row():
        fields["pattern"] = gr.Dropdown(
            list(get_args(PatternName)), value="unstructured", label="Pattern", min_width=140, elem_id="pattern",
            info="2:4 keeps 2 of every 4 neighbours, and no factors",
        )  # fmt: skip
        fields["rank_share"] = gr.Slider(
            0.01, 0.9, value=DEFAULTS["rank_share"], step=0.01, label="Rank share", min_width=200,
            info="Part of what is kept that goes into low-rank factors",
        )  # fmt: skip
    with gr.Row():
        fields["source"] = gr.Dropdown(
            SOURCES, value="auto", label="Calibration text", allow_custom_value=True, min_width=200, elem_id="source",
            info="What the layers read while they are measured; also OWNER/NAME of a data set, or a file",
        )  # fmt: skip
        fields["allocation"] = gr.Dropdown(
            list(get_args(AllocationName)), value="auto", label="Budget", min_width=120,
            info="How the kept parameters are shared out",
        )  # fmt: skip
        fields["values"] = gr.Dropdown(
            list(get_args(ValuesName)), value="float", label="Values", min_width=120, elem_id="values",
            info="int8: half the bytes of every value",
        )  # fmt: skip
    with gr.Row():
        fields["samples"] = number("samples", "Samples", "Pieces of text; more is steadier and slower", minimum=1)
        fields["length"] = number("length", "Length", "Tokens a piece", minimum=8)
        fields["seed"] = number("seed", "Seed", "The same seed, the same result", minimum=0)
        fields["bos"] = gr.Dropdown(
            list(get_args(BosName)), value="each", label="BOS", min_width=120, elem_id="bos",
            info="Before each window, or the first of the text only, where the tokenizer has one",
        )  # fmt: skip
    with gr.Row():
        fields["effort"] = gr.Dropdown(
            list(get_args(EffortName)), value="fast", label="Effort", min_width=120, elem_id="effort",
            info="best: two to three times the time, a smaller error",
        )  # fmt: skip
        fields["reconstruct_minutes"] = _minutes("reconstruct_minutes", "Blocks learn", "Minutes; 0: not at all")
        fields["heal_minutes"] = _minutes("heal_minutes", "The model learns", "Minutes at the end; 0: not at all")
    with gr.Row():
        fields["device"] = gr.Dropdown(
            ["auto", "cpu", "cuda"], value="auto", label="Device", allow_custom_value=True, min_width=120
        )
        fields["dtype"] = gr.Dropdown(
            list(get_args(DtypeName)), value="auto", label="Number format", min_width=140, info="auto: the model's own"
        )
    fields["save_path"] = gr.Textbox(
        label="Output folder", placeholder="in the folder of the run", elem_id="save_path", max_lines=1
    )
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    fitting = [fields[name] for name in ("pattern", "rank_share", "effort")]
    fields["method"].change(_fitting, fields["method"], fitting, **quiet)
    fields["pattern"].input(_share_of, fields["pattern"], fields["sparsity"], **quiet)


def _minutes(name: str, label: str, info: str) -> gr.Number:
    return gr.Number(DEFAULTS[name], label=label, info=info, minimum=0, min_width=120, elem_id=name)


def _words(fields: dict[str, Any]) -> tuple[gr.Code, gr.Code]:
    """The command and the YAML, to copy, to save and to load again."""
    with gr.Group(elem_classes="panel"), gr.Accordion("Command and settings", open=False, elem_classes="fold"):
        command = gr.Code(
            label="Command", language="shell", interactive=False, lines=1, wrap_lines=True, buttons=["copy"],
            elem_id="command",
        )  # fmt: skip
        yaml = gr.Code(
            label="Settings (YAML)", language="yaml", interactive=False, lines=2, buttons=["copy", "download"],
            elem_id="yaml",
        )  # fmt: skip
        load = gr.UploadButton("Load settings …", file_types=[".yaml", ".yml"], size="sm")
    load.upload(_loaded, load, [fields[name] for name in FIELDS], show_progress="hidden", api_visibility="private")
    return command, yaml


def _loaded(path: str) -> list[Any]:
    with refusals():
        try:
            values = form.values_of(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise SpecError("This file is no text.", "Load a YAML file that was saved here.") from None
    return [values[name] for name in FIELDS]


FIELDS = (
    "model_id",
    "sparsity",
    "method",
    "pattern",
    "rank_share",
    "source",
    "allocation",
    "samples",
    "length",
    "seed",
    "bos",
    "values",
    "effort",
    "reconstruct_minutes",
    "heal_minutes",
    "device",
    "dtype",
    "save_path",
)  # fmt: skip - the settings of the form


def _said(text: str) -> str:
    return f'<p class="quiet">{text}</p>'


def _slider_of(preset: str) -> Any:
    return form.PRESETS[preset].sparsity if preset in form.PRESETS else gr.skip()


def _preset_of(sparsity: float) -> tuple[str, str]:
    return form.preset_of(sparsity), _said(form.sentence_of(sparsity))


def _fitting(method: str) -> tuple[Any, Any, Any]:
    """What the method does not know is not shown."""
    joined, best = method in JOINED, method == "hybrid"
    return gr.Dropdown(visible=method in PATTERNED), gr.Slider(visible=joined), gr.Dropdown(visible=best)


def _share_of(pattern: str) -> Any:
    """A pattern fixes the share."""
    if pattern == "unstructured":
        return gr.skip()
    n, m = map(int, pattern.split(":"))
    return 1 - n / m
