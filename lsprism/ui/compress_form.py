"""The controls of the tab Compress: the important ones visible, the others folded away with defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from lsprism.errors import SpecError
from lsprism.method_catalog import get_method_info
from lsprism.records.model_plan import ValuesName
from lsprism.rule_catalog import list_rule_names
from lsprism.specs import (
    BosName,
    CalibrationSpec,
    CompressSpec,
    DtypeName,
    EffortName,
    PatternName,
)
from lsprism.ui import cached_models, form_values
from lsprism.ui.context import show_errors
from lsprism.ui.texts import compress as texts

DEFAULTS: dict[str, Any] = {
    name: field.default for spec in (CompressSpec, CalibrationSpec) for name, field in spec.model_fields.items()
}


@dataclass(frozen=True)
class CompressForm:
    fields: dict[str, Any]  # name of the setting -> its component
    token: gr.Textbox
    command: gr.Code
    yaml: gr.Code


def build() -> CompressForm:
    """All controls, and the events that concern only the form."""
    fields: dict[str, Any] = {}
    with gr.Group(elem_classes="panel"):
        gr.HTML(f"<h2>{texts.MODEL}</h2>", elem_classes="title")
        fields["model_id"] = gr.Dropdown(
            _list_models(),
            value=cached_models.DEMO,
            show_label=False,
            allow_custom_value=True,
            filterable=True,
            elem_id="model",
        )
        gr.HTML(_render_note(texts.MODEL_INFO))
        with gr.Accordion(texts.GATED, open=False, elem_classes="fold"):
            gr.Markdown(texts.GATED_STEPS)
            token = gr.Textbox(type="password", elem_id="token", autofocus=False, **texts.TOKEN)
    _build_amount(fields)
    with gr.Group(elem_classes="panel"), gr.Accordion(texts.DETAILS, open=False, elem_classes="fold"):
        _build_details(fields)
    command, yaml = _build_command(fields)
    return CompressForm(fields, token, command, yaml)


def _list_models() -> list[str]:
    return [cached_models.DEMO, *cached_models.list_cached()]


def _build_amount(fields: dict[str, Any]) -> None:
    """Sparsity and method."""
    with gr.Group(elem_classes="panel"):
        gr.HTML(f"<h2>{texts.SPARSITY}</h2>", elem_classes="title")
        preset = gr.Radio(
            [*form_values.PRESETS, form_values.CUSTOM],
            value=form_values.find_preset(0.5),
            show_label=False,
            container=False,
            elem_id="preset",
        )
        fields["sparsity"] = gr.Slider(
            0.05, 0.95, value=0.5, step=0.01, label=texts.SPARSITY, show_label=False, elem_id="sparsity",
        )  # fmt: skip
        sentence = gr.HTML(_render_note(form_values.get_sentence(0.5)))
        fields["method"] = gr.Dropdown(list(form_values.METHODS), value="hybrid", elem_id="method", **texts.METHOD)
        method_sentence = gr.HTML(_render_note(form_values.METHODS["hybrid"]))
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    preset.input(_update_slider, preset, fields["sparsity"], **quiet)
    fields["sparsity"].change(
        _update_preset, fields["sparsity"], [preset, sentence], trigger_mode="always_last", **quiet
    )
    fields["method"].change(
        lambda name: _render_note(form_values.METHODS.get(name, "")), fields["method"], method_sentence, **quiet
    )


def _build_details(fields: dict[str, Any]) -> None:
    def make_number(name: str, **more: Any) -> gr.Number:
        return gr.Number(DEFAULTS[name], precision=0, min_width=120, elem_id=name, **more)

    with gr.Row():
        fields["pattern"] = gr.Dropdown(
            list(get_args(PatternName)), value="unstructured", min_width=140, elem_id="pattern", **texts.PATTERN,
        )  # fmt: skip
        fields["rank_share"] = gr.Slider(
            0.01, 0.9, value=DEFAULTS["rank_share"], step=0.01, min_width=200, **texts.RANK_SHARE,
        )  # fmt: skip
    with gr.Row():
        fields["source"] = gr.Dropdown(
            [(text, name) for name, text in texts.SOURCES.items()], value="auto", allow_custom_value=True,
            min_width=200, elem_id="source", **texts.SOURCE,
        )  # fmt: skip
        fields["allocation"] = gr.Dropdown(
            ["auto", *list_rule_names()], value="auto", min_width=120, **texts.ALLOCATION,
        )  # fmt: skip
        fields["values"] = gr.Dropdown(
            list(get_args(ValuesName)), value="float", min_width=120, elem_id="values", **texts.VALUES,
        )  # fmt: skip
    with gr.Row():
        fields["samples"] = make_number("samples", minimum=1, **texts.SAMPLES)
        fields["length"] = make_number("length", minimum=8, **texts.LENGTH)
        fields["seed"] = make_number("seed", minimum=0, **texts.SEED)
        fields["bos"] = gr.Dropdown(
            list(get_args(BosName)), value="each", min_width=120, elem_id="bos", **texts.BOS,
        )  # fmt: skip
    with gr.Row():
        fields["effort"] = gr.Dropdown(
            list(get_args(EffortName)), value="fast", min_width=120, elem_id="effort", **texts.EFFORT,
        )  # fmt: skip
        fields["reconstruct_minutes"] = _make_minutes("reconstruct_minutes", texts.RECONSTRUCT)
        fields["heal_minutes"] = _make_minutes("heal_minutes", texts.HEAL)
    with gr.Row():
        fields["device"] = gr.Dropdown(
            ["auto", "cpu", "cuda"], value="auto", allow_custom_value=True, min_width=120, **texts.DEVICE
        )
        fields["dtype"] = gr.Dropdown(list(get_args(DtypeName)), value="auto", min_width=140, **texts.DTYPE)
    fields["save_path"] = gr.Textbox(
        placeholder=texts.SAVE_PATH_DEFAULT, elem_id="save_path", max_lines=1, **texts.SAVE_PATH
    )
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    fitting = [fields[name] for name in ("pattern", "rank_share", "effort")]
    fields["method"].change(_update_method, fields["method"], fitting, **quiet)
    fields["pattern"].input(_update_sparsity, fields["pattern"], fields["sparsity"], **quiet)


def _make_minutes(name: str, text: dict[str, Any]) -> gr.Number:
    return gr.Number(DEFAULTS[name], minimum=0, min_width=120, elem_id=name, **text)


def _build_command(fields: dict[str, Any]) -> tuple[gr.Code, gr.Code]:
    """The command and the YAML: to copy, to save, and to load again."""
    with gr.Group(elem_classes="panel"), gr.Accordion(texts.COMMAND_AND_SETTINGS, open=False, elem_classes="fold"):
        command = gr.Code(
            label=texts.COMMAND, language="shell", interactive=False, lines=1, wrap_lines=True, buttons=["copy"],
            elem_id="command",
        )  # fmt: skip
        yaml = gr.Code(
            label=texts.YAML, language="yaml", interactive=False, lines=2, buttons=["copy", "download"],
            elem_id="yaml",
        )  # fmt: skip
        load = gr.UploadButton(texts.LOAD, file_types=[".yaml", ".yml"], size="sm")
    load.upload(_load_yaml, load, [fields[name] for name in FIELDS], show_progress="hidden", api_visibility="private")
    return command, yaml


def _load_yaml(path: str) -> list[Any]:
    with show_errors():
        try:
            values = form_values.parse_yaml(Path(path).read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise SpecError(*texts.NOT_TEXT) from None
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


def _render_note(text: str) -> str:
    return f'<p class="quiet">{text}</p>'


def _update_slider(preset: str) -> Any:
    return form_values.PRESETS.get(preset, gr.skip())


def _update_preset(sparsity: float) -> tuple[str, str]:
    return form_values.find_preset(sparsity), _render_note(form_values.get_sentence(sparsity))


def _update_method(method: str) -> tuple[Any, Any, Any]:
    """Hide the settings that the method does not have."""
    info = get_method_info(method)
    best = "best" in info.efforts
    return gr.Dropdown(visible=info.patterns), gr.Slider(visible=info.low_rank), gr.Dropdown(visible=best)


def _update_sparsity(pattern: str) -> Any:
    """A pattern fixes the sparsity."""
    if pattern == "unstructured":
        return gr.skip()
    n, m = map(int, pattern.split(":"))
    return 1 - n / m
