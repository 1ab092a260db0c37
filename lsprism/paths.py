"""Paths as people write them, and whether something can be written there."""

import os
from contextlib import suppress
from pathlib import Path

from lsprism.errors import TargetError

PROBE = ".checking"  # ends the name of a folder that is made and removed again to see whether it can be made


def expand(path: str | Path) -> Path:
    """`path` with ~ and ~NAME as home folders; an unknown name stays as it is, where Path.expanduser would raise."""
    return Path(os.path.expanduser(path))


def beside(target: Path, suffix: str = "") -> Path:
    """`target` + suffix, in the same folder and so in the same file system. Where `target` is a link, beside what it
    leads to: that is replaced, and the link stays."""
    whole = Path(os.path.realpath(target))  # '.' has no name
    return whole.parent / (whole.name + suffix)


def nearest_existing(path: Path) -> Path:
    """`path` itself, or the nearest folder above it that exists."""
    whole = Path(os.path.abspath(path))
    # Not Path.exists, which raises for names that are too long.
    return next(above for above in (whole, *whole.parents) if os.path.exists(above))


def check_writable(path: Path, hint: str) -> None:
    """Refuse a path that cannot be made. Rights alone do not say so: names may be too long, disks read-only.

    Folders are made on the way to it and removed again. Raises TargetError with `hint`.
    """
    whole = Path(os.path.abspath(path))
    probe = whole.parent / (whole.name + PROBE)  # with_name refuses '/', which has no name
    above = nearest_existing(probe)
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
