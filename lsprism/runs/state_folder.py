"""The state folder, which holds the runs, and the error raised where it cannot be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_state_path

from lsprism.errors import DiskError
from lsprism.paths import expand

STATE = "LSPRISM_STATE"  # environment variable


def get_state_folder() -> Path:
    """`$LSPRISM_STATE`, `$LSPRISM_HOME/state`, or the user's state folder; it need not exist yet."""
    if own := os.environ.get(STATE):
        return expand(own).absolute()
    if home := os.environ.get("LSPRISM_HOME"):
        return expand(home).absolute() / "state"
    return user_state_path("lsprism")


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Translate an OSError into a DiskError that names the folder."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be written: {error.strerror or error}.",
            f"Free disk space there, or set {STATE} to a writable folder.",
        ) from error
