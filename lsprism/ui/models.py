"""Models that can be chosen on this machine: the hub's cache, and what was made here. No gradio, no network."""

from pathlib import Path

from lsprism.runs import Run, Runs

DEMO = "demo"
CONFIGS = "snapshots/*/config.json"


def cached(cache: Path | None = None) -> list[str]:
    """Hub ids whose config lies in the local cache."""
    if cache is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE)
    folders = sorted(cache.glob("models--*"))
    return [f.name.removeprefix("models--").replace("--", "/") for f in folders if any(f.glob(CONFIGS))]


def artifacts(runs: Runs) -> dict[str, Run]:
    """Folder of each finished compression that is still there -> its run, the newest first."""
    found: dict[str, Run] = {}
    for run in runs.all():
        if run.verb == "compress" and run.state == "done" and run.artifact and (run.artifact / "config.json").is_file():
            found.setdefault(str(run.artifact), run)
    return found
