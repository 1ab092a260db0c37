"""The estimate for a compression: HTML from a plan. Pure; no gradio."""

from collections.abc import Iterable
from html import escape

from lsprism.reports import Duration, Memory, Plan
from lsprism.runs import Run
from lsprism.specs import CalibrationSpec, PlanSpec
from lsprism.ui.texts import Pair
from lsprism.ui.texts import compress as texts
from lsprism.units import amount, rough_duration, size

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


def estimate(plan: Plan, free_bytes: int, before_s: float | None, free_on_card: int | None = None) -> str:
    """Tiles, size bar, memory and notes.

    `free_bytes` is the memory that is free now, `free_on_card` that of the plan's CUDA device if it has one;
    `before_s` is how long a similar run took here, if there was one.
    """
    share = plan.kept_parameters / plan.model_parameters
    kept = texts.OF.format(all=amount(plan.model_parameters))
    tiles = [
        _tile(texts.SIZE, size(plan.stored_bytes), texts.OF.format(all=size(plan.dense_stored_bytes)), texts.SIZE_HINT),
        _tile(texts.PARAMETERS, f"{share:.0%}", f"{amount(plan.kept_parameters)} {kept}", texts.PARAMETERS_HINT),
        _tile(texts.TIME, *_time(before_s, plan.duration), texts.TIME_HINT),
    ]
    if (error := plan.mean_error) is not None:
        tiles.append(_tile(texts.ERROR, f"{error:.1%}", texts.ERROR_OF, texts.ERROR_HINT))
    bar = _before_after(plan.stored_bytes, plan.dense_stored_bytes)
    card = ""
    if free_on_card is not None:
        card = _room(texts.DEVICE_MEMORY.format(device=plan.device), plan.memory.on_device, free_on_card)
    return f'<div class="tiles">{"".join(tiles)}</div>{bar}{_memory(plan.memory, free_bytes)}{card}{_notes(plan)}'


def waiting(text: str = texts.ESTIMATING) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def refusal(message: str, hint: str) -> str:
    """Why there is no estimate, and what to do."""
    return f'<div class="note bad"><strong>{escape(message)}</strong> {escape(hint)}</div>'


def seconds_before(runs: Iterable[Run], spec: PlanSpec) -> float | None:
    """How long the newest finished run of the same model, settings and calibration size took."""
    for run in runs:
        calibration = run.settings.get("calibration")
        calibration = calibration if isinstance(calibration, dict) else {}
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


def _time(before_s: float | None, predicted: Duration | None) -> Pair:
    seconds = before_s or (predicted.total if predicted else None)
    if seconds is None:
        return texts.TIME_UNKNOWN
    about = texts.TIME_ABOUT.format(time=rough_duration(seconds))
    return about, texts.TIME_AS_BEFORE if before_s else texts.TIME_PREDICTED


def _tile(name: str, value: str, more: str, hint: str) -> str:
    return (
        f'<div class="tile" title="{escape(hint)}"><span>{escape(name)}</span>'
        f"<strong>{escape(value)}</strong><small>{escape(more)}</small></div>"
    )


def _before_after(after: int, before: int) -> str:
    share = min(1.0, after / before) if before else 1.0
    left = texts.SIZE_LEFT.format(share=share)
    return (
        f'<div class="bar" role="img" aria-label="{left}"><i style="width:{share:.1%}"></i></div>'
        f'<p class="quiet">{left}. {texts.SIZE_LEFT_WHY}</p>'
    )


def _room(what: str, need: int, free_bytes: int) -> str:
    """Memory needed, memory free, and what that means."""
    share = need / max(1, free_bytes)
    kind, verdict = "good", texts.FITS
    if share > 1:
        kind, verdict = "bad", texts.TOO_LARGE
    elif share > TIGHT:
        kind, verdict = "fair", texts.TIGHT
    needs = texts.NEEDS.format(what=what, need=size(need), free=size(free_bytes))
    return f'<div class="note {kind}"><strong>{escape(needs)}</strong> — {verdict}.</div>'


def _memory(memory: Memory, free_bytes: int) -> str:
    parts = [(*texts.PARTS[name], size(count)) for name, count in memory.parts.items()]
    rows = "".join(f"<tr><td>{name}<small>{hint}</small></td><td>{count}</td></tr>" for name, hint, count in parts)
    how = texts.PEAK_OF_HEALING if memory.healing else texts.PEAK_OF
    return (
        f"{_room(texts.MEMORY, memory.total, free_bytes)}<details><summary>{texts.BREAKDOWN}</summary><table>{rows}"
        f"<tr><td><b>{texts.PEAK}</b><small>{how}</small></td><td><b>{size(memory.total)}</b></td></tr>"
        "</table></details>"
    )


def _notes(plan: Plan) -> str:
    notes: dict[str, int] = {}
    for site in plan.sites:
        if site.note:
            notes[site.note] = notes.get(site.note, 0) + 1
    all_layers = len(plan.sites)
    layers = [texts.LAYERS_NOTE.format(count=count, all=all_layers, note=note) for note, count in notes.items()]
    return "".join(f'<p class="quiet">{escape(text)}</p>' for text in (plan.notes + layers)[:3])
