"""How many processor cores this process may use, and which."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

__all__ = ["core_for", "cpu_quota", "usable_cores", "worker_count"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> list[int]:
    """The numbers of the cores this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_for(index: int) -> int:
    """The core of worker number ``index``: each has its own until there are more workers than cores."""
    cores = usable_cores()
    return cores[index % len(cores)]


def worker_count() -> int:
    """How many workers keep the usable cores busy: one each, and no more than the CPU quota, rounded up, pays for."""
    cores = len(usable_cores())
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, ceil(quota)))


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """How many cores' worth of time this process's control group and those it is in allow it: the least ``cpu.max``
    (cgroup v2). ``None``: nothing limits it.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    parts = [part for part in path.split("/") if part not in ("", "..")]  # "..": beyond what a container may see
    found = []
    for depth in range(len(parts) + 1):
        try:
            quota, period = cgroups.joinpath(*parts[:depth], "cpu.max").read_text().split()
            if quota != "max":
                found.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # the root group has none
            continue
    return min(found, default=None)
