"""Models to choose from: the demo, artifacts of runs, and cached Hub models. No gradio."""

from pathlib import Path

from lsprism.runs import Run, RunStore
from lsprism.ui import cached_models
from lsprism.ui.cards import format_title
from lsprism.ui.texts import common as texts

Choice = tuple[str, str]  # label, model


def list_choices(runs: RunStore) -> list[Choice]:
    """The demo, then artifacts, the newest first, then cached models."""
    made = [(f"{name} · {Path(folder).name}", folder) for folder, name in list_artifacts(runs).items()]
    return [(texts.DEMO, cached_models.DEMO), *made, *((one, one) for one in cached_models.list_cached())]


def list_artifacts(runs: RunStore) -> dict[str, str]:
    """Folder -> label of each artifact that still exists, those of sweeps too."""
    found: dict[str, str] = {}
    for run in runs.list_all():
        for folder, name in list_run_artifacts(run).items():
            if folder not in found and (Path(folder) / "config.json").is_file():
                found[folder] = name
    return found


def find_pair(run: Run) -> tuple[str, str] | None:
    """The model of a run and its artifact; None if the artifact does not exist."""
    made = next(
        (folder for folder in reversed(list_run_artifacts(run)) if (Path(folder) / "config.json").is_file()), None
    )
    return (str(run.settings["model_id"]), made) if made else None


def list_run_artifacts(run: Run) -> dict[str, str]:
    """Folder -> label of the artifacts that one run has made or will make."""
    if run.artifact is None or run.state == "damaged":
        return {}
    if run.verb == "compress":
        return {str(run.artifact): format_title(run)} if run.state == "done" else {}
    if run.verb != "sweep":
        return {}
    method, model = run.settings.get("method"), run.settings.get("model_id")
    sparsities = run.settings.get("sparsities")
    sparsities = sparsities if isinstance(sparsities, list) else []
    names = {
        f"{method}-{one:g}": f"{model}, {texts.AT_SPARSITY.format(method=method, sparsity=one)}" for one in sparsities
    }
    return {str(run.artifact / folder): name for folder, name in names.items()}
