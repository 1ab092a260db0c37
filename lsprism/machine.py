"""Memory available to this process: free memory of the machine, or less if a container limits it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/")


@dataclass(frozen=True)
class _Version:
    """Mount point and file names of one cgroup version."""

    mount: str
    limits: tuple[str, ...]
    usage: str
    cache: tuple[str, ...]  # entries of memory.stat: file cache, which the kernel drops when memory is needed


_V1 = _Version(
    "sys/fs/cgroup/memory",
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
_V2 = _Version("sys/fs/cgroup", ("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file"))


def get_free_memory(root: Path = ROOT) -> int:
    """Free bytes: the minimum of the machine's free memory and what each cgroup of this process has left.

    `root`: the folder with proc/ and sys/.
    """
    return min([psutil.virtual_memory().available, *_iter_group_limits(root)])


def _iter_group_limits(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, named = line.partition(":")
        controllers, _, group = named.partition(":")
        if number == "0" and not controllers:
            version = _V2
        elif "memory" in controllers.split(","):
            version = _V1
        else:
            continue
        inner = PurePosixPath(group.lstrip("/"))
        # Parent groups count too. In a container the group may have its name outside the container, while its files
        # are at the mount point: missing folders are skipped.
        for name in (inner, *inner.parents):
            yield from _read_group_limit(root / version.mount / name, version)


def _read_group_limit(group: Path, version: _Version) -> Iterator[int]:
    """Bytes left in one cgroup; nothing if it has no limit ('max', in version 1 a huge number)."""
    stat = dict(line.rstrip().partition(" ")[::2] for line in _read(group / "memory.stat").splitlines())
    cached = sum(_parse_number(stat.get(entry, "")) or 0 for entry in version.cache)
    used = max(0, (_parse_number(_read(group / version.usage)) or 0) - cached)
    for file in version.limits:
        limit = _parse_number(_read(group / file))
        if limit is not None:
            yield max(0, limit - used)


def _parse_number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such group, or no cgroups on this system
        return ""
