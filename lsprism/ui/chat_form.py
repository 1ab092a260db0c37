"""The controls of the tab Chat: two models, a prompt, a few buttons; the settings are folded away."""

from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from lsprism.runs import Runs
from lsprism.specs import DtypeName, GenerateSpec
from lsprism.ui import chat_page, models
from lsprism.ui.chat_state import Page
from lsprism.ui.choices import artifacts, choices

DEFAULTS = {name: field.default for name, field in GenerateSpec.model_fields.items()}
CHAT = "Chat"
EXAMPLES = {
    "Why is the sky blue?": "Explain in two sentences why the sky is blue.",
    "A recipe": "Write a short recipe for a vegetable soup, with the amounts.",
    "A riddle": "A farmer has 17 sheep, and all but 9 run away. How many are left? Explain.",
    "A story": "Tell the beginning of a story about a lighthouse keeper who finds a letter.",
}
# Esc stops wherever the focus is; an answer's button copies its text.
SCRIPT = """
window.lsprismCopy = (button) => {
  const said = button.closest('.answer').querySelector('pre');
  navigator.clipboard.writeText(said ? said.innerText : '');
  button.textContent = 'Copied'; setTimeout(() => { button.textContent = 'Copy'; }, 1200);
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
class Parts:
    left: gr.Dropdown
    right: gr.Dropdown
    fields: dict[str, Any]  # name of the setting -> its component
    prompt: gr.Textbox
    blind: gr.Checkbox
    shown: dict[str, Any]  # what handlers write to
    buttons: dict[str, gr.Button]
    examples: dict[str, gr.Button]


def build(runs: Runs) -> Parts:
    """All controls, without their events."""
    shown: dict[str, Any] = {"page": gr.State(Page())}
    buttons: dict[str, gr.Button] = {}
    left, right = _models(runs, buttons, shown)
    shown["sides"] = gr.HTML(chat_page.sides(Page(), chat_page.Seating(), {}), elem_id="chat-sides")
    with gr.Column(elem_classes="talk", elem_id="chat-talk"):  # the last one first: it stays in sight
        shown["now"] = gr.HTML(chat_page.NOTHING, elem_id="chat-now", js_on_load=SCRIPT)
        shown["past"] = gr.HTML("", elem_id="chat-past")
    shown["status"] = gr.HTML("", elem_id="chat-status")
    with gr.Row(elem_classes="actions", visible=False) as shown["vote"]:
        for key, label in {"a": "A is better", "b": "B is better", "equal": "Equally good", "bad": "Both bad"}.items():
            buttons[key] = _button(label, f"vote-{key}")
    prompt = _prompt(buttons)
    with gr.Row(elem_classes="actions examples") as shown["examples"]:
        examples = {text: _button(label, f"example-{n}") for n, (label, text) in enumerate(EXAMPLES.items())}
    with gr.Row(elem_classes="actions after"):
        for key, label in {"again": "Regenerate", "edit": "Edit last", "undo": "Undo", "clear": "Clear"}.items():
            buttons[key] = _button(label, key)
        blind = gr.Checkbox(label="Blind test", container=False, min_width=110, scale=0, elem_id="chat-blind")
    with (
        gr.Group(elem_classes="panel"),
        gr.Accordion("Settings", open=False, elem_classes="fold", elem_id="chat-settings"),
    ):
        fields = _settings()
    return Parts(left, right, fields, prompt, blind, shown, buttons, examples)


def _button(label: str, name: str) -> gr.Button:
    return gr.Button(label, size="sm", min_width=84, elem_id=f"chat-{name}")


def _models(runs: Runs, buttons: dict[str, gr.Button], shown: dict[str, Any]) -> tuple[gr.Dropdown, gr.Dropdown]:
    known, made = choices(runs), list(artifacts(runs))
    common: dict[str, Any] = {"choices": known, "allow_custom_value": True, "filterable": True, "min_width": 220}
    other = made[0] if made else models.DEMO
    with gr.Group(elem_classes="panel"):
        with gr.Row(elem_classes="models"):
            left = gr.Dropdown(value=models.DEMO, label="One model", elem_id="chat-left", scale=4, **common)
            right = gr.Dropdown(value=other, label="The other", elem_id="chat-right", scale=4, **common)
            buttons["load"] = _button("Load both", "load")
            buttons["unload"] = _button("Unload", "unload")
        shown["memory"] = gr.HTML("", elem_id="chat-memory")
    return left, right


def _prompt(buttons: dict[str, gr.Button]) -> gr.Textbox:
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            show_label=False, label="Prompt", placeholder="Ask both models …",
            lines=1, max_lines=8, scale=8, min_width=200, container=False, elem_id="chat-prompt",
        )  # fmt: skip
        buttons["send"] = gr.Button("Send", variant="primary", scale=0, min_width=88, elem_id="chat-send")
        buttons["stop"] = gr.Button("Stop", interactive=False, scale=0, min_width=88, elem_id="chat-stop")
    return prompt


def _settings() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    with gr.Row():
        fields["mode"] = gr.Radio([CHAT, "Plain completion"], value=CHAT, label="Mode", info=(
            "Chat: by the model's template, with what was said before. Completion: goes on from the prompt alone."
        ))  # fmt: skip
        fields["system"] = gr.Textbox("", label="System prompt", lines=2, max_lines=6)
    with gr.Row():
        fields["greedy"] = gr.Checkbox(
            DEFAULTS["greedy"], label="Greedy: always the likeliest token", elem_id="chat-greedy"
        )
        fields["max_new_tokens"] = _number("max_new_tokens", "Tokens at most", precision=0)
        fields["seed"] = _number("seed", "Seed", precision=0)
    with gr.Row():
        fields["temperature"] = gr.Slider(0.05, 2, DEFAULTS["temperature"], step=0.05, label="Temperature", info=(
            "Below 1 sharpens, above 1 flattens"
        ))  # fmt: skip
        fields["top_p"] = gr.Slider(0.05, 1, DEFAULTS["top_p"], step=0.05, label="Top-p", info=_help("top_p"))
    with gr.Row():
        fields["top_k"] = gr.Slider(0, 200, DEFAULTS["top_k"], step=1, label="Top-k", info=_help("top_k"))
        fields["repetition_penalty"] = gr.Slider(
            0.8,
            2,
            DEFAULTS["repetition_penalty"],
            step=0.05,
            label="Repetition penalty",
            info=_help("repetition_penalty"),
        )
    with gr.Row():
        fields["device"] = gr.Textbox("auto", label="Device", info="auto, cpu, cuda or cuda:N", max_lines=1)
        fields["dtype"] = gr.Dropdown(list(get_args(DtypeName)), value="auto", label="Number format", info="of both")
    return fields


def _number(name: str, label: str, precision: int) -> gr.Number:
    return gr.Number(
        DEFAULTS[name], label=label, precision=precision, minimum=0, info=_help(name), elem_id=f"chat-{name}"
    )


def _help(name: str) -> str:
    said = GenerateSpec.model_fields[name].description or ""
    return said[:1].upper() + said[1:]
