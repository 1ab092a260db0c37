"""Hub models in the local cache. No gradio, no network."""

from pathlib import Path

DEMO = "demo"
CONFIGS = "snapshots/*/config.json"


def list_cached(cache: Path | None = None) -> list[str]:
    """Hub ids whose config is in the cache."""
    if cache is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE)
    folders = sorted(cache.glob("models--*"))
    return [f.name.removeprefix("models--").replace("--", "/") for f in folders if any(f.glob(CONFIGS))]
