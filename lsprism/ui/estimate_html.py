"""The estimate for a compression: HTML from a plan. Pure; no gradio."""

from collections.abc import Iterable
from html import escape

from lsprism.records.model_plan import DurationEstimate, MemoryEstimate, Plan
from lsprism.runs import Run
from lsprism.specs import CalibrationSpec, PlanSpec
from lsprism.ui.texts import Pair
from lsprism.ui.texts import compress as texts
from lsprism.units import format_amount, format_rough_duration, format_size

TIGHT = 0.7  # fraction of the free memory above which the machine may slow down
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


def render_estimate(plan: Plan, free_bytes: int, before_s: float | None, free_on_card: int | None = None) -> str:
    """Tiles, size bar, memory and notes.

    `free_bytes` is the memory that is free now, `free_on_card` that of the plan's CUDA device if it has one;
    `before_s` is how long a similar run took here, if there was one.
    """
    share = plan.kept_parameters / plan.model_parameters
    kept = texts.OF.format(all=format_amount(plan.model_parameters))
    tiles = [
        _render_tile(
            texts.SIZE,
            format_size(plan.stored_bytes),
            texts.OF.format(all=format_size(plan.dense_stored_bytes)),
            texts.SIZE_HINT,
        ),
        _render_tile(
            texts.PARAMETERS, f"{share:.0%}", f"{format_amount(plan.kept_parameters)} {kept}", texts.PARAMETERS_HINT
        ),
        _render_tile(texts.TIME, *_format_time(before_s, plan.duration), texts.TIME_HINT),
    ]
    if (error := plan.mean_error) is not None:
        tiles.append(_render_tile(texts.ERROR, f"{error:.1%}", texts.ERROR_OF, texts.ERROR_HINT))
    bar = _render_size_bar(plan.stored_bytes, plan.dense_stored_bytes)
    card = ""
    if free_on_card is not None:
        card = _render_room(texts.DEVICE_MEMORY.format(device=plan.device), plan.memory.on_device, free_on_card)
    return (
        f'<div class="tiles">{"".join(tiles)}'
        f"</div>{bar}{_render_memory(plan.memory, free_bytes)}{card}{_render_notes(plan)}"
    )


def render_waiting(text: str = texts.ESTIMATING) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def render_refusal(message: str, hint: str) -> str:
    """Why there is no estimate, and what to do."""
    return f'<div class="note bad"><strong>{escape(message)}</strong> {escape(hint)}</div>'


def find_previous_seconds(runs: Iterable[Run], spec: PlanSpec) -> float | None:
    """How long the newest finished run of the same model, settings and calibration size took."""
    for run in runs:
        calibration = run.settings.get("calibration")
        calibration = calibration if isinstance(calibration, dict) else {}
        alike = (
            run.verb == "compress"
            and run.state == "done"
            and run.settings.get("model_id") == spec.model_id
            and all(run.settings.get(name, _DEFAULTS[name]) == getattr(spec, name) for name in WORK)
            and _count_tokens(CalibrationSpec(**calibration)) == _count_tokens(spec.calibration)
        )
        if alike and isinstance(seconds := run.figures.get("seconds"), int | float):
            return float(seconds)
    return None


def _count_tokens(spec: CalibrationSpec) -> int:
    return spec.samples * spec.length


def _format_time(before_s: float | None, predicted: DurationEstimate | None) -> Pair:
    seconds = before_s or (predicted.total if predicted else None)
    if seconds is None:
        return texts.TIME_UNKNOWN
    about = texts.TIME_ABOUT.format(time=format_rough_duration(seconds))
    return about, texts.TIME_AS_BEFORE if before_s else texts.TIME_PREDICTED


def _render_tile(name: str, value: str, more: str, hint: str) -> str:
    return (
        f'<div class="tile" title="{escape(hint)}"><span>{escape(name)}</span>'
        f"<strong>{escape(value)}</strong><small>{escape(more)}</small></div>"
    )


def _render_size_bar(after: int, before: int) -> str:
    share = min(1.0, after / before) if before else 1.0
    left = texts.SIZE_LEFT.format(share=share)
    return (
        f'<div class="bar" role="img" aria-label="{left}"><i style="width:{share:.1%}"></i></div>'
        f'<p class="quiet">{left}. {texts.SIZE_LEFT_WHY}</p>'
    )


def _render_room(what: str, need: int, free_bytes: int) -> str:
    """Memory needed, memory free, and what that means."""
    share = need / max(1, free_bytes)
    kind, verdict = "good", texts.FITS
    if share > 1:
        kind, verdict = "bad", texts.TOO_LARGE
    elif share > TIGHT:
        kind, verdict = "fair", texts.TIGHT
    needs = texts.NEEDS.format(what=what, need=format_size(need), free=format_size(free_bytes))
    return f'<div class="note {kind}"><strong>{escape(needs)}</strong> — {verdict}.</div>'


def _render_memory(memory: MemoryEstimate, free_bytes: int) -> str:
    parts = [(*texts.PARTS[name], format_size(count)) for name, count in memory.parts.items()]
    rows = "".join(f"<tr><td>{name}<small>{hint}</small></td><td>{count}</td></tr>" for name, hint, count in parts)
    how = texts.PEAK_OF_HEALING if memory.healing else texts.PEAK_OF
    return (
        f"{_render_room(texts.MEMORY, memory.total, free_bytes)}<details><summary>{texts.BREAKDOWN}</summary>"
        f"<table>{rows}"
        f"<tr><td><b>{texts.PEAK}</b><small>{how}</small></td><td><b>{format_size(memory.total)}</b></td></tr>"
        "</table></details>"
    )


def _render_notes(plan: Plan) -> str:
    notes: dict[str, int] = {}
    for site in plan.sites:
        if site.note:
            notes[site.note] = notes.get(site.note, 0) + 1
    all_layers = len(plan.sites)
    layers = [texts.LAYERS_NOTE.format(count=count, all=all_layers, note=note) for note, count in notes.items()]
    return "".join(f'<p class="quiet">{escape(text)}</p>' for text in (plan.notes + layers)[:3])
