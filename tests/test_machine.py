"""Free memory: that of the machine, or less if a container limits it."""

from pathlib import Path

import psutil
import pytest

from lsprism.machine import get_free_memory

GB = 10**9
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.fixture(autouse=True)
def hundred_gigabytes(monkeypatch):
    """The machine has 100 GB of free memory."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=100 * GB))


@pytest.mark.parametrize(
    ("files", "free"),
    {
        "no control groups": ({}, 100 * GB),
        "version 2, in a container": (
            {"proc/self/cgroup": "0::/", f"{V2}/memory.max": 8 * GB, f"{V2}/memory.current": 3 * GB},
            5 * GB,
        ),
        "version 2, file cache can be dropped": (
            {
                "proc/self/cgroup": "0::/",
                f"{V2}/memory.max": 8 * GB,
                f"{V2}/memory.current": 7 * GB,
                f"{V2}/memory.stat": f"anon {2 * GB}\nactive_file {1 * GB}\ninactive_file {4 * GB}",
            },
            6 * GB,
        ),
        "version 2, no limit": (
            {"proc/self/cgroup": "0::/a", f"{V2}/a/memory.max": "max", f"{V2}/a/memory.current": 3 * GB},
            100 * GB,
        ),
        "version 2, slowed down beyond memory.high": (
            {"proc/self/cgroup": "0::/a", f"{V2}/a/memory.max": "max", f"{V2}/a/memory.high": 4 * GB},
            4 * GB,
        ),
        "version 2, a group above is tighter": (
            {
                "proc/self/cgroup": "0::/user.slice/job.scope",
                f"{V2}/user.slice/job.scope/memory.max": 8 * GB,
                f"{V2}/user.slice/job.scope/memory.current": 1 * GB,
                f"{V2}/user.slice/memory.max": 10 * GB,
                f"{V2}/user.slice/memory.current": 9 * GB,
            },
            1 * GB,
        ),
        "version 1": (
            {
                "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/job\n0::/",
                f"{V1}/job/memory.limit_in_bytes": 2 * GB,
                f"{V1}/job/memory.usage_in_bytes": 1 * GB,
                f"{V1}/job/memory.stat": f"cache 7\ntotal_inactive_file {GB // 2}",
            },
            GB * 3 // 2,
        ),
        "version 1, named as outside of the container": (
            {"proc/self/cgroup": "4:memory:/docker/ab12", f"{V1}/memory.limit_in_bytes": 6 * GB},
            6 * GB,
        ),
        "version 1, no limit": (
            {"proc/self/cgroup": "4:memory:/", f"{V1}/memory.limit_in_bytes": 9223372036854771712},
            100 * GB,
        ),
        "more is used than allowed": (
            {"proc/self/cgroup": "0::/", f"{V2}/memory.max": GB, f"{V2}/memory.current": 2 * GB},
            0,
        ),
        "files that make no sense": (
            {"proc/self/cgroup": "no\n0::/../..\n::\n4:memory", f"{V2}/memory.max": "many", f"{V2}/memory.stat": "x"},
            100 * GB,
        ),
    }.values(),
)  # fmt: skip
def test_cgroup_limits_are_respected(tmp_path, files, free):
    assert get_free_memory(write(tmp_path, files)) == free


def test_a_limit_above_the_machines_memory_has_no_effect(tmp_path):
    files = {"proc/self/cgroup": "0::/", f"{V2}/memory.max": 400 * GB, f"{V2}/memory.current": GB}
    assert get_free_memory(write(tmp_path, files)) == 100 * GB


def test_every_memory_check_uses_this_function():
    package = Path(__file__).parents[1] / "lsprism"
    users = {path.name for path in package.rglob("*.py") if "virtual_memory" in path.read_text(encoding="utf-8")}
    assert users == {"machine.py"}
