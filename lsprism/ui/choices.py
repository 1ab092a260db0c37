"""Models that can be talked to or measured: the demo, what was made here, the hub's cache. No gradio."""

from pathlib import Path

from lsprism.runs import Run, Runs
from lsprism.ui import models
from lsprism.ui.cards import title_of

Choice = tuple[str, str]  # what is shown, and the model


def choices(runs: Runs) -> list[Choice]:
    """The demo first, then artifacts, the newest first, then the cache."""
    made = [(f"{name} · {Path(folder).name}", folder) for folder, name in artifacts(runs).items()]
    return [("demo (SmolLM2-135M-Instruct)", models.DEMO), *made, *((one, one) for one in models.cached())]


def artifacts(runs: Runs) -> dict[str, str]:
    """Folder of each artifact that is still there -> what it is called; those of studies too."""
    found: dict[str, str] = {}
    for run in runs.all():
        for folder, name in artifacts_of(run).items():
            if folder not in found and (Path(folder) / "config.json").is_file():
                found[folder] = name
    return found


def pair_of(run: Run) -> tuple[str, str] | None:
    """The model of a run, and what was made of it; None where there is no such pair."""
    made = next((folder for folder in reversed(artifacts_of(run)) if (Path(folder) / "config.json").is_file()), None)
    return (str(run.settings["model_id"]), made) if made else None


def artifacts_of(run: Run) -> dict[str, str]:
    """What one run has made, or is about to make: folder -> what it is called."""
    if run.artifact is None or run.state == "damaged":
        return {}
    if run.verb == "compress":
        return {str(run.artifact): title_of(run)} if run.state == "done" else {}
    if run.verb != "sweep":
        return {}
    method, model = run.settings.get("method"), run.settings.get("model_id")
    names = {f"{method}-{one:g}": f"{model}, {method} at {one:g}" for one in run.settings.get("sparsities") or []}
    return {str(run.artifact / folder): name for folder, name in names.items()}
