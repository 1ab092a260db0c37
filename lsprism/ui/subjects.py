"""What the tab Layers can look at: compressions, also while they run, and the artifacts of studies. No gradio."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lsprism.artifact.manifest import REPORT
from lsprism.errors import LSPrismError
from lsprism.reports import CompressionReport, LayerReport
from lsprism.runs import Run
from lsprism.ui.choices import artifacts_of
from lsprism.ui.ledger import label_of
from lsprism.ui.watch import Watch


@dataclass(frozen=True)
class Subject:
    """One of them. `key` is the run's id, with the name of the artifact behind a slash where the run is a study."""

    key: str
    run: Run
    artifact: Path | None  # None: it is not done yet
    layers: tuple[LayerReport, ...]
    spectra: Path  # where its singular values are kept


def choices(watch: Watch) -> list[tuple[str, str]]:
    """What each is called, and its key; the newest first."""
    found = []
    for run in watch.runs.all():
        if run.verb == "compress":
            found.append((label_of(run), run.id))
        elif run.verb == "sweep":
            made = {Path(folder): name for folder, name in artifacts_of(run).items()}
            done = {folder.name: name for folder, name in made.items() if (folder / REPORT).is_file()}
            found += [(f"{name} · sweep {run.id[-6:]}", f"{run.id}/{folder}") for folder, name in done.items()]
    return found


def subject(watch: Watch, key: str | None) -> Subject | None:
    """None where there is no such run, or no longer."""
    run_id, _, name = (key or "").partition("/")
    try:
        view = watch.view(run_id)
    except LSPrismError:
        return None
    run, folder = view.run, watch.runs.path(run_id)
    if not name:
        artifact = run.artifact if run.state == "done" else None
        return Subject(run_id, run, artifact, view.layers, folder / "spectra.jsonl")
    artifact = next((Path(made) for made in artifacts_of(run) if Path(made).name == name), None)
    if artifact is None:
        return None
    return Subject(f"{run_id}/{name}", run, artifact, _layers(artifact), folder / f"spectra-{name}.jsonl")


def _layers(artifact: Path) -> tuple[LayerReport, ...]:
    path = artifact / REPORT
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> tuple[LayerReport, ...]:
    return tuple(CompressionReport.model_validate_json(path.read_bytes()).layers)
