"""Folders of assets and caches, paths given by users, and checks whether they can be written."""

import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from lsprism.errors import TargetError

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "assets"  # a wheel has them inside the package, a checkout next to it
ASSETS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.with_name("assets")
PROBE = ".checking"  # suffix of a test folder that is created and deleted


def expand(path: str | Path) -> Path:
    """Expand ~ and ~NAME in `path`; an unknown name is left unchanged, where Path.expanduser would raise."""
    return Path(os.path.expanduser(path))


def cache_folder() -> Path:
    """`$LSPRISM_CACHE`, `$LSPRISM_HOME/cache`, or the user's cache folder; it need not exist yet."""
    if own := os.environ.get("LSPRISM_CACHE"):
        return expand(own)
    if home := os.environ.get("LSPRISM_HOME"):
        return expand(home) / "cache"
    return user_cache_path("lsprism")


def traits_folder() -> Path:
    """Folder of the measurements of models: `$LSPRISM_TRAITS`, or a folder in the cache. It may not exist yet."""
    own = os.environ.get("LSPRISM_TRAITS")
    return expand(own) if own else cache_folder() / "traits"


def get_sibling(target: Path, suffix: str = "") -> Path:
    """`target` + suffix, in the same folder and so on the same file system. A symbolic link is resolved first: its
    target is replaced, and the link is kept."""
    whole = Path(os.path.realpath(target))  # '.' has no name
    return whole.parent / (whole.name + suffix)


def find_existing(path: Path) -> Path:
    """`path` itself, or the nearest folder above it that exists."""
    whole = Path(os.path.abspath(path))
    # Not Path.exists, which raises for names that are too long.
    return next(above for above in (whole, *whole.parents) if os.path.exists(above))


def check_writable(path: Path, hint: str) -> None:
    """Raise TargetError, with `hint`, if the path cannot be created.

    Permissions alone do not show it: names may be too long, file systems read-only. So a test folder is created, with
    its parents, and deleted.
    """
    whole = Path(os.path.abspath(path))
    probe = whole.parent / (whole.name + PROBE)  # with_name refuses '/', which has no name
    above = find_existing(probe)
    wanted = [folder for folder in (probe, *probe.parents) if folder.is_relative_to(above) and folder != above]
    made: list[Path] = []
    try:
        for folder in reversed(wanted):
            folder.mkdir(exist_ok=True)
            made.append(folder)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"{path} cannot be written: {reason}.", hint) from None
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
