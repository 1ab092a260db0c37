"""The controls of the tab Chat: two models, a prompt, buttons, and folded settings."""

from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from lsprism.runs import RunStore
from lsprism.specs import DtypeName, GenerateSpec
from lsprism.ui import cached_models, chat_html
from lsprism.ui.chat_state import ChatPage
from lsprism.ui.model_choices import list_artifacts, list_choices
from lsprism.ui.texts import chat as texts
from lsprism.ui.texts import common, get_field_texts

DEFAULTS = {name: field.default for name, field in GenerateSpec.model_fields.items()}
CHAT = texts.CHAT
# Esc stops, wherever the focus is; the button of an answer copies its text.
SCRIPT = """
window.lsprismCopy = (button) => {
  const said = button.closest('.answer').querySelector('pre');
  navigator.clipboard.writeText(said ? said.innerText : '');
  button.textContent = button.dataset.copied; setTimeout(() => { button.textContent = button.dataset.copy; }, 1200);
};
if (!window.lsprismEscape) {
  window.lsprismEscape = (event) => {
    const stop = document.getElementById('chat-stop');
    if (event.key === 'Escape' && stop && !stop.disabled && stop.offsetParent) stop.click();
  };
  document.addEventListener('keydown', window.lsprismEscape);
}
"""


@dataclass(frozen=True)
class ChatForm:
    left: gr.Dropdown
    right: gr.Dropdown
    fields: dict[str, Any]  # name of the setting -> its component
    prompt: gr.Textbox
    blind: gr.Checkbox
    shown: dict[str, Any]  # what the handlers update
    buttons: dict[str, gr.Button]
    examples: dict[str, gr.Button]


def build(runs: RunStore) -> ChatForm:
    """All controls, without their events."""
    shown: dict[str, Any] = {"page": gr.State(ChatPage())}
    buttons: dict[str, gr.Button] = {}
    left, right = _build_models(runs, buttons, shown)
    shown["sides"] = gr.HTML(chat_html.render_sides(ChatPage(), chat_html.LoadedModels(), {}), elem_id="chat-sides")
    with gr.Column(elem_classes="talk", elem_id="chat-talk"):  # the last turn first, so that it stays visible
        shown["now"] = gr.HTML(chat_html.NOTHING, elem_id="chat-now", js_on_load=SCRIPT)
        shown["past"] = gr.HTML("", elem_id="chat-past")
    shown["status"] = gr.HTML("", elem_id="chat-status")
    with gr.Row(elem_classes="actions", visible=False) as shown["vote"]:
        for key, label in texts.VOTES.items():
            buttons[key] = _make_button(label, f"vote-{key}")
    prompt = _build_prompt(buttons)
    with gr.Row(elem_classes="actions examples") as shown["examples"]:
        examples = {text: _make_button(label, f"example-{n}") for n, (label, text) in enumerate(texts.EXAMPLES.items())}
    with gr.Row(elem_classes="actions after"):
        for key, label in texts.AFTER.items():
            buttons[key] = _make_button(label, key)
        blind = gr.Checkbox(container=False, min_width=110, scale=0, elem_id="chat-blind", **texts.BLIND)
    with (
        gr.Group(elem_classes="panel"),
        gr.Accordion(texts.SETTINGS, open=False, elem_classes="fold", elem_id="chat-settings"),
    ):
        fields = _build_settings()
    return ChatForm(left, right, fields, prompt, blind, shown, buttons, examples)


def _make_button(label: str, name: str) -> gr.Button:
    return gr.Button(label, size="sm", min_width=84, elem_id=f"chat-{name}")


def _build_models(
    runs: RunStore, buttons: dict[str, gr.Button], shown: dict[str, Any]
) -> tuple[gr.Dropdown, gr.Dropdown]:
    known, made = list_choices(runs), list(list_artifacts(runs))
    both: dict[str, Any] = {"choices": known, "allow_custom_value": True, "filterable": True, "min_width": 220}
    other = made[0] if made else cached_models.DEMO
    with gr.Group(elem_classes="panel"):
        with gr.Row(elem_classes="models"):
            left = gr.Dropdown(value=cached_models.DEMO, elem_id="chat-left", scale=4, **texts.FIRST, **both)
            right = gr.Dropdown(value=other, elem_id="chat-right", scale=4, **texts.SECOND, **both)
            buttons["load"] = _make_button(texts.LOAD, "load")
            buttons["unload"] = _make_button(texts.UNLOAD, "unload")
        shown["memory"] = gr.HTML("", elem_id="chat-memory")
    return left, right


def _build_prompt(buttons: dict[str, gr.Button]) -> gr.Textbox:
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            show_label=False, placeholder=texts.PLACEHOLDER, lines=1, max_lines=8, scale=8, min_width=200,
            container=False, elem_id="chat-prompt", **texts.PROMPT,
        )  # fmt: skip
        buttons["send"] = gr.Button(texts.SEND, variant="primary", scale=0, min_width=88, elem_id="chat-send")
        buttons["stop"] = gr.Button(texts.STOP, interactive=False, scale=0, min_width=88, elem_id="chat-stop")
    return prompt


def _build_settings() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    with gr.Row():
        fields["mode"] = gr.Radio([CHAT, texts.COMPLETION], value=CHAT, **texts.MODE)
        fields["system"] = gr.Textbox("", lines=2, max_lines=6, **texts.SYSTEM)
    with gr.Row():
        fields["greedy"] = gr.Checkbox(DEFAULTS["greedy"], elem_id="chat-greedy", **texts.GREEDY)
        fields["max_new_tokens"] = _make_number("max_new_tokens", texts.MAX_NEW_TOKENS)
        fields["seed"] = _make_number("seed", texts.SEED)
    with gr.Row():
        fields["temperature"] = gr.Slider(0.05, 2, DEFAULTS["temperature"], step=0.05, **texts.TEMPERATURE)
        fields["top_p"] = gr.Slider(0.05, 1, DEFAULTS["top_p"], step=0.05, **texts.TOP_P)
    with gr.Row():
        fields["top_k"] = gr.Slider(0, 200, DEFAULTS["top_k"], step=1, **texts.TOP_K)
        penalty = DEFAULTS["repetition_penalty"]
        fields["repetition_penalty"] = gr.Slider(0.8, 2, penalty, step=0.05, **texts.REPETITION_PENALTY)
    with gr.Row():
        fields["device"] = gr.Textbox("auto", max_lines=1, **get_field_texts(texts.DEVICE, common.DEVICES))
        fields["dtype"] = gr.Dropdown(list(get_args(DtypeName)), value="auto", **texts.DTYPE_FIELD)
    return fields


def _make_number(name: str, text: dict[str, Any]) -> gr.Number:
    return gr.Number(DEFAULTS[name], precision=0, minimum=0, elem_id=f"chat-{name}", **text)
