"""What a compression would come to, beside the slider: pure HTML from a plan. No gradio."""

from collections.abc import Iterable
from html import escape

from lsprism.charts.units import amount, duration, size
from lsprism.reports import Duration, Memory, Plan
from lsprism.runs import Run
from lsprism.specs import CalibrationSpec, PlanSpec

TIGHT = 0.7  # of the free memory: above it the machine may slow down
WORK = (
    "method",
    "pattern",
    "allocation",
    "effort",
    "reconstruct_minutes",
    "reconstruct_steps",
    "heal_minutes",
    "heal_steps",
)
_DEFAULTS = {name: PlanSpec.model_fields[name].default for name in WORK}
HINTS = {
    "fixed": "tokenizer, calibration text, the libraries' scratch",
    "outside": "embeddings and output head, while the text is read",
    "hidden_states": "what the calibration text has become after the blocks so far",
    "block": "one block, dense and compressed",
    "statistics": "what the inputs of one block are like",
    "workspace": "the method's matrices, or one batch",
    "healing": "the whole model, while it learns",
}


def estimate(plan: Plan, free_bytes: int, before_s: float | None, free_on_card: int | None = None) -> str:
    """`free_bytes`: memory there is now, `free_on_card`: on the plan's CUDA device, if it has one; `before_s`: what a
    like run took here, if there was one."""
    share = plan.kept_parameters / plan.model_parameters
    tiles = [
        _tile("On disk", size(plan.stored_bytes), f"of {size(plan.dense_stored_bytes)}", "All files of the model."),
        _tile(
            "Parameters kept",
            f"{share:.0%}",
            f"{amount(plan.kept_parameters)} of {amount(plan.model_parameters)}",
            "Of the whole model: embeddings and norms are never touched.",
        ),
        _tile("Time", *_time(before_s, plan.duration), "By this machine's measured speed, or by the last similar run."),
    ]
    card = "" if free_on_card is None else _room(f"On {plan.device}", plan.memory.on_device, free_on_card)
    if (error := plan.mean_error) is not None:
        hint = "Of a layer's output, by what earlier runs of this model lost here."
        tiles.append(_tile("Error expected", f"{error:.1%}", "mean of the layers", hint))
    bar = _before_after(plan.stored_bytes, plan.dense_stored_bytes)
    return f'<div class="tiles">{"".join(tiles)}</div>{bar}{_memory(plan.memory, free_bytes)}{card}{_notes(plan)}'


def waiting(text: str = "Working out what this would come to …") -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def refusal(message: str, hint: str) -> str:
    """Why there is no estimate, and what to do."""
    hint = "" if hint.startswith("See --help") else hint  # which a form has no use for
    return f'<div class="note bad"><strong>{escape(message)}</strong> {escape(hint)}</div>'


def seconds_before(runs: Iterable[Run], spec: PlanSpec) -> float | None:
    """What the newest finished run of this model, this work and this amount of text took."""
    for run in runs:
        calibration = run.settings.get("calibration") or {}
        alike = (
            run.verb == "compress"
            and run.state == "done"
            and run.settings.get("model_id") == spec.model_id
            and all(run.settings.get(name, _DEFAULTS[name]) == getattr(spec, name) for name in WORK)
            and _tokens(CalibrationSpec(**calibration)) == _tokens(spec.calibration)
        )
        if alike and isinstance(seconds := run.figures.get("seconds"), int | float):
            return float(seconds)
    return None


def _tokens(spec: CalibrationSpec) -> int:
    return spec.samples * spec.length


def _time(before_s: float | None, predicted: Duration | None) -> tuple[str, str]:
    seconds = before_s or (predicted and predicted.total)
    if seconds is None:
        return "—", "available after the first block"
    about = f"{round(seconds / 60)} min" if seconds >= 90 else duration(seconds)
    return f"≈ {about}", "based on the last similar run" if before_s else "predicted for this machine"


def _tile(name: str, value: str, more: str, hint: str) -> str:
    return (
        f'<div class="tile" title="{escape(hint)}"><span>{escape(name)}</span>'
        f"<strong>{escape(value)}</strong><small>{escape(more)}</small></div>"
    )


def _before_after(after: int, before: int) -> str:
    share = min(1.0, after / before) if before else 1.0
    return (
        f'<div class="bar" role="img" aria-label="{share:.0%} of the bytes are left">'
        f'<i style="width:{share:.1%}"></i></div>'
        f'<p class="quiet">{share:.0%} of the bytes are left. Zeros are not stored; where the rest lies is.</p>'
    )


def _room(what: str, need: int, free_bytes: int) -> str:
    """What is needed of what is free, and what that means."""
    share = need / max(1, free_bytes)
    kind, verdict = "good", "fits"
    if share > 1:
        kind, verdict = "bad", "does not fit: fewer or shorter samples need less, or close other programs"
    elif share > TIGHT:
        kind, verdict = "fair", "fits, but it is tight"
    return (
        f'<div class="note {kind}"><strong>{escape(what)}: {size(need)} of {size(free_bytes)} free</strong> '
        f"— {verdict}.</div>"
    )


def _memory(memory: Memory, free_bytes: int) -> str:
    blocks = "the sum of the others"
    if memory.healing:
        blocks = "hidden states with healing or with block, statistics and workspace"
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}<small>{escape(HINTS[name])}</small></td><td>{size(count)}</td></tr>"
        for name, count in memory.parts.items()
    )
    return (
        f"{_room('Memory', memory.total, free_bytes)}<details><summary>How that is reckoned</summary><table>{rows}"
        f"<tr><td><b>needed at once</b><small>fixed + the larger of outside and {blocks}</small></td>"
        f"<td><b>{size(memory.total)}</b></td></tr></table></details>"
    )


def _notes(plan: Plan) -> str:
    notes: dict[str, int] = {}
    for site in plan.sites:
        if site.note:
            notes[site.note] = notes.get(site.note, 0) + 1
    said = plan.notes + [f"{count} of {len(plan.sites)} layers: {note}." for note, count in notes.items()]
    return "".join(f'<p class="quiet">{escape(text)}</p>' for text in said[:3])
