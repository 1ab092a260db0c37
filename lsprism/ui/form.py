"""The form of a compression as words: settings become a request, a command, YAML, and come back from it. No gradio."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lsprism.errors import SpecError
from lsprism.runs import Runs
from lsprism.runs.command import NAMES, line_of, options_of, order_of
from lsprism.specs import JOINED, PATTERNED, CalibrationSpec, CompressSpec, PlanSpec, ask

TEXT = tuple(CalibrationSpec.model_fields)  # of the form, what belongs to the calibration
CUSTOM = "Custom"


@dataclass(frozen=True)
class Preset:
    sparsity: float
    sentence: str


PRESETS = {
    "Conservative 0.3": Preset(
        0.3, "Three in ten of the layers' parameters go. The answers stay close to the original's; little space is won."
    ),
    "Aggressive 0.5": Preset(
        0.5, "Half of the layers' parameters go. A small model such as the demo loses clearly; a large one loses less."
    ),
}
CUSTOM_SENTENCE = "Your own share. Above 0.6 most models stop making sense without further training."

METHODS = {
    "hybrid": "Sparse + low-rank: keeps the important weights and adds a few strong directions. The usual choice.",
    "oats": "Sparse + low-rank by turns, blind to how inputs go together. A published rival of hybrid.",
    "sparsegpt": "Sparse: what stays is adjusted to make up for what goes. Slower, often better at 0.5 and above.",
    "wanda": "Sparse: the weights that matter least for real text go. Fast.",
    "magnitude": "Sparse: the smallest weights go, whatever the text. The simplest comparison.",
    "svd": "Low-rank: every matrix becomes two thin ones, fitted to real text.",
    "svd-plain": "Low-rank without looking at any text. The simplest comparison.",
}


def preset_of(sparsity: float) -> str:
    """Which preset the slider stands at."""
    return next((name for name, preset in PRESETS.items() if abs(preset.sparsity - sparsity) < 1e-9), CUSTOM)


def sentence_of(sparsity: float) -> str:
    preset = PRESETS.get(preset_of(sparsity))
    return preset.sentence if preset else CUSTOM_SENTENCE


def spec_of(values: dict[str, Any]) -> PlanSpec:
    """The request that the form stands for: a CompressSpec where it names a folder. SpecError names what is wrong.

    What does not apply to the method (a pattern for factors, a rank share where there are none) is left as the default.
    """
    said = {name: value for name, value in values.items() if value not in (None, "")}
    said["model_id"] = str(said.get("model_id", "")).strip()
    if not said["model_id"]:
        raise SpecError("No model is chosen.", "Choose 'demo', or write a hub id or a folder.")
    if said.get("method") not in PATTERNED:
        said.pop("pattern", None)
    if said.get("method") not in JOINED or said.get("pattern", "unstructured") != "unstructured":
        said.pop("rank_share", None)
    if said.get("method") != "hybrid":
        said.pop("effort", None)
    said["calibration"] = {name: said.pop(name) for name in TEXT if name in said}
    if said.get("save_path"):
        said["save_path"] = str(said["save_path"]).strip()
        return ask(CompressSpec, **said)
    return ask(PlanSpec, **said)


def plan_of(spec: PlanSpec) -> PlanSpec:
    """Without where the result goes, which decides nothing else: one plan for both."""
    return PlanSpec(**{name: getattr(spec, name) for name in PlanSpec.model_fields})


def command_of(spec: PlanSpec, runs: Runs) -> str:
    """The command that Start will run; without a folder of its own the result goes to the run's."""
    line = line_of(order_of("compress", spec))
    return line if isinstance(spec, CompressSpec) else f"{line} --save-path {runs.folder / 'NEW-RUN' / 'artifact'}"


def yaml_of(spec: PlanSpec) -> str:
    """The same settings for --config, one option a line."""
    said = {
        name.replace("_", "-"): str(value) if isinstance(value, Path) else value
        for name, value in options_of(spec).items()
    }
    # Also what is at its default but decides the result, so that the file says it to whoever reads it.
    for name in ("method", "sparsity"):
        said.setdefault(name, getattr(spec, name))
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def values_of(text: str) -> dict[str, Any]:
    """The form's values from such YAML; SpecError for what is not an option of a compression."""
    try:
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 45th of a month
        raise SpecError(
            f"This is no YAML: {' '.join(str(error).split())}.", "Load a file that was saved here."
        ) from None
    if not isinstance(content, dict):
        raise SpecError("This holds no settings.", "Load a file of lines 'option: value'.")
    own = {outer: inner for inner, outer in NAMES.items()}
    values = {own.get(name, name): value for name, value in _flat(content)}
    known = {*CompressSpec.model_fields, *TEXT} - {"calibration"}
    if unknown := sorted(set(values) - known):
        raise SpecError(f"{unknown[0]!r} is no setting of a compression.", f"Choose from {', '.join(sorted(known))}.")
    if isinstance(values.get("pattern"), int):  # YAML 1.1 reads 2:4 as a number to base 60
        values["pattern"] = ":".join(map(str, divmod(values["pattern"], 60)))
    spec = spec_of({**values, "save_path": values.get("save_path") or "unused"})
    filled = {**spec.model_dump(exclude={"calibration"}), **spec.calibration.model_dump()}
    return {**filled, "save_path": str(values.get("save_path") or "")}


def settings_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The form's values from the settings of an earlier run."""
    calibration = settings.get("calibration") or {}
    return {**{name: value for name, value in settings.items() if name != "calibration"}, **calibration}


def _flat(content: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        name = "model_id" if name == "model_path" else name
        found += _flat(value) if name == "calibration" and isinstance(value, dict) else [(name, value)]
    return found
