"""The folder for models that are converted once and cached."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from lsprism.paths import expand


def cache_folder() -> Path:
    """`$LSPRISM_HOME/cache`, or the user's cache folder; it may not exist yet."""
    home = os.environ.get("LSPRISM_HOME")
    return expand(home) / "cache" if home else user_cache_path("lsprism")
