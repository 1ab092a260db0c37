"""What the tab Layers can show: compressions, also while they run, and the artifacts of sweeps. No gradio."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lsprism.artifact.manifest import REPORT
from lsprism.errors import LSPrismError
from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.runs import Run
from lsprism.ui.model_choices import list_run_artifacts
from lsprism.ui.run_views import RunViews
from lsprism.ui.runs_html import format_label
from lsprism.ui.texts import common


@dataclass(frozen=True)
class LayerSource:
    """A compression. `key` is the id of the run, followed by a slash and the artifact's name if the run is a sweep."""

    key: str
    run: Run
    artifact: Path | None  # None: not finished yet
    layers: tuple[LayerReport, ...]
    spectra: Path  # file for its singular values


def list_choices(watch: RunViews) -> list[tuple[str, str]]:
    """Label and key of each; the newest first."""
    found = []
    for run in watch.runs.list_all():
        if run.verb == "compress":
            found.append((format_label(run), run.id))
        elif run.verb == "sweep":
            made = {Path(folder): name for folder, name in list_run_artifacts(run).items()}
            done = {folder.name: name for folder, name in made.items() if (folder / REPORT).is_file()}
            labels = {folder: common.OF_SWEEP.format(name=name, run=run.id[-6:]) for folder, name in done.items()}
            found += [(label, f"{run.id}/{folder}") for folder, label in labels.items()]
    return found


def find_source(watch: RunViews, key: str | None) -> LayerSource | None:
    """None if the run does not exist."""
    run_id, _, name = (key or "").partition("/")
    try:
        view = watch.get_view(run_id)
    except LSPrismError:
        return None
    run, folder = view.run, watch.runs.get_folder(run_id)
    if not name:
        artifact = run.artifact if run.state == "done" else None
        return LayerSource(run_id, run, artifact, view.layers, folder / "spectra.jsonl")
    artifact = next((Path(made) for made in list_run_artifacts(run) if Path(made).name == name), None)
    if artifact is None:
        return None
    return LayerSource(f"{run_id}/{name}", run, artifact, _load_layers(artifact), folder / f"spectra-{name}.jsonl")


def _load_layers(artifact: Path) -> tuple[LayerReport, ...]:
    path = artifact / REPORT
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> tuple[LayerReport, ...]:
    return tuple(CompressionReport.model_validate_json(path.read_bytes()).layers)
