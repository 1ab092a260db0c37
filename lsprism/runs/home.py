"""Where the runs lie, and what is said when that place refuses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_state_path

from lsprism.errors import DiskError
from lsprism.paths import expand

HOME = "LSPRISM_STATE"  # names the state folder; else it is the folder state/ in LSPRISM_HOME


def state_folder() -> Path:
    """`$LSPRISM_STATE`, `$LSPRISM_HOME/state`, or the user's state folder; it need not exist yet."""
    if own := os.environ.get(HOME):
        return expand(own).absolute()
    if home := os.environ.get("LSPRISM_HOME"):
        return expand(home).absolute() / "state"
    return user_state_path("lsprism")


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """An OSError within becomes a DiskError that names the folder."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be written: {error.strerror or error}.",
            f"Free some space there, or set {HOME} to a folder that can be written.",
        ) from error
