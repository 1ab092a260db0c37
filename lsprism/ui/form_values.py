"""The form of a compression: its settings as a request, a command or YAML, and back. No gradio."""

from pathlib import Path
from typing import Any

import yaml

from lsprism.arguments import NAMES
from lsprism.errors import SpecError
from lsprism.method_catalog import get_method_info, list_method_summaries
from lsprism.runs import RunStore
from lsprism.runs.argv import collect_options, format_command_line, make_request
from lsprism.runs.yaml_options import parse_options
from lsprism.specs import CalibrationSpec, CompressSpec, PlanSpec, validate
from lsprism.ui.texts import compress as texts

TEXT = tuple(CalibrationSpec.model_fields)  # settings that belong to the calibration

PRESETS = {texts.CONSERVATIVE: 0.3, texts.AGGRESSIVE: 0.5}  # name -> sparsity
CUSTOM = texts.CUSTOM
METHODS = list_method_summaries()  # name -> sentence


def find_preset(sparsity: float) -> str:
    """The preset with this sparsity."""
    return next((name for name, preset in PRESETS.items() if abs(preset - sparsity) < 1e-9), CUSTOM)


def get_sentence(sparsity: float) -> str:
    return texts.PRESETS[find_preset(sparsity)]


def make_spec(values: dict[str, Any]) -> PlanSpec:
    """The form as a request: a CompressSpec if it names a folder. SpecError names the setting that is wrong.

    Settings that do not apply to the method (a pattern for svd, a rank share without factors) keep their defaults.
    """
    said = {name: value for name, value in values.items() if value not in (None, "")}
    said["model_id"] = str(said.get("model_id", "")).strip()
    if not said["model_id"]:
        raise SpecError(*texts.NO_MODEL)
    info = get_method_info(said["method"]) if said.get("method") in METHODS else None
    if not (info and info.patterns):
        said.pop("pattern", None)
    if not (info and info.low_rank) or said.get("pattern", "unstructured") != "unstructured":
        said.pop("rank_share", None)
    if not (info and "best" in info.efforts):
        said.pop("effort", None)
    said["calibration"] = {name: said.pop(name) for name in TEXT if name in said}
    if said.get("save_path"):
        said["save_path"] = str(said["save_path"]).strip()
        return validate(CompressSpec, **said)
    return validate(PlanSpec, **said)


def make_plan_spec(spec: PlanSpec) -> PlanSpec:
    """The request without the output folder, which does not change the plan."""
    return PlanSpec(**{name: getattr(spec, name) for name in PlanSpec.model_fields})


def format_command(spec: PlanSpec, runs: RunStore) -> str:
    """The command that Start will run; the output folder defaults to that of the run."""
    line = format_command_line(make_request("compress", spec))
    return line if isinstance(spec, CompressSpec) else f"{line} --save-path {runs.folder / 'NEW-RUN' / 'artifact'}"


def format_yaml(spec: PlanSpec) -> str:
    """The same settings for --config, one option per line."""
    said = {
        name.replace("_", "-"): str(value) if isinstance(value, Path) else value
        for name, value in collect_options(spec).items()
    }
    # Also written at their defaults, so that a reader of the file sees them.
    for name in ("method", "sparsity"):
        said.setdefault(name, getattr(spec, name))
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> dict[str, Any]:
    """The form's values from such YAML; SpecError for anything but the options of a compression."""
    names = [NAMES.get(name, name) for name in (*CompressSpec.model_fields, *TEXT) if name != "calibration"]
    own = {option: name for name, option in NAMES.items()}
    values = {own.get(name, name): value for name, value in parse_options(text, names, texts.LOADED_FILE).items()}
    if not values.get("model_id", "").strip():
        raise SpecError(*texts.NO_MODEL)
    calibration = {name: values.pop(name) for name in TEXT if name in values}
    save_path = values.get("save_path", "")
    spec = validate(CompressSpec, **{**values, "save_path": save_path or "unused", "calibration": calibration})
    filled = {**spec.model_dump(exclude={"calibration"}), **spec.calibration.model_dump()}
    return {**filled, "save_path": save_path}


def map_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The form's values from the settings of an earlier run."""
    calibration = settings.get("calibration") or {}
    return {**{name: value for name, value in settings.items() if name != "calibration"}, **calibration}
