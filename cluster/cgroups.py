"""Every process of a cluster is in a cgroup below the cluster's: so it is found, counted and ended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cluster import paths

FILESYSTEM = Path("/sys/fs/cgroup")
# Where a node's own daemons live, beside the kubelet's `kubepods`.
DAEMONS = "daemons"


def unified() -> bool:
    """Whether this machine has cgroup v2 alone."""
    return (FILESYSTEM / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Mount points of the cgroup file systems with controllers: one with v2, one a controller with v1."""
    if unified():
        return [FILESYSTEM]
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [
        Path(mount[1]) for mount in mounts if mount[2] == "cgroup" and Path(mount[1]).parent == FILESYSTEM
    ]


def make(node: str) -> list[Path]:
    """Makes a node's cgroups; returns the cgroup.procs files that put a process among its daemons."""
    procs = []
    for hierarchy in hierarchies():
        group = hierarchy
        for name in (paths.name(), node, DAEMONS):
            if unified():
                (group / "cgroup.subtree_control").write_text(
                    " ".join(f"+{c}" for c in (group / "cgroup.controllers").read_text().split())
                )
            parent, group = group, group / name
            group.mkdir(exist_ok=True)
            _inherit_cpus(parent, group)
        procs.append(group / "cgroup.procs")
    return procs


def _inherit_cpus(parent: Path, group: Path) -> None:
    """With v1 a new cpuset is empty, and an empty one takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not unified() and (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((parent / name).read_text())


def processes(node: str | None = None) -> set[int]:
    """Ids of the processes of a node and of its pods, or of all nodes."""
    return {pid for group in groups(node) for pid in _members(group)}


def groups(node: str | None = None) -> Iterator[Path]:
    """The cgroups of a node, or of all nodes, the innermost first."""
    for hierarchy in {*hierarchies(), *_named()}:
        # os.walk passes over what ends while it looks, as the cgroups of pods do at any time.
        for group, _, _ in os.walk(hierarchy / paths.name() / (node or ""), topdown=False):
            yield Path(group)


def remove(node: str | None = None) -> None:
    """Removes the empty cgroups of a node, or of all nodes. Raises OSError where one is in use."""
    for group in groups(node):
        with suppress(FileNotFoundError):
            group.rmdir()


def _named() -> list[Path]:
    """v1 hierarchies that runc uses as well though they have no controller (systemd's, the unified one)."""
    return (
        []
        if unified()
        else [path for path in FILESYSTEM.iterdir() if path.is_dir() and not path.is_symlink()]
    )


def _members(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def memory_left() -> int:
    """Bytes that the cluster may still take: of the machine's, and of what its cgroups are limited to."""
    said = Path("/proc/meminfo").read_text()
    left = [1024 * _number("MemAvailable:", said)]
    files = ("memory.max", "memory.current", "file")
    if not unified():
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
    memory = FILESYSTEM if unified() else FILESYSTEM / "memory"
    for group in (memory, memory / paths.name()):
        with suppress(OSError, ValueError):  # no such group, or its limit is "max"
            limit, use = (int((group / file).read_text()) for file in files[:2])
            # The cache of files gives way.
            left.append(limit - use + _number(files[2], (group / "memory.stat").read_text()))
    return max(0, min(left))


def killed_for_memory() -> int:
    """How many of the cluster's processes the kernel has ended for want of memory."""
    count = 0
    for group in groups():
        for file in ("memory.oom_control", "memory.events.local"):
            with suppress(OSError):
                count += _number("oom_kill", (group / file).read_text())
    return count


def _number(name: str, lines: str) -> int:
    found = re.search(rf"^{name}\s+(\d+)", lines, re.MULTILINE)
    return int(found[1]) if found else 0


def memory() -> int:
    """Bytes of memory that the cluster's processes hold; pages that several share are counted once."""
    return sum(_proportional_set_size(pid) for pid in processes())


def _proportional_set_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended meanwhile, or a kernel thread
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
