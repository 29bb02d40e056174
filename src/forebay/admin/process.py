"""Metrics of the processes themselves: this one, and the workers as Linux sees them."""

from __future__ import annotations

import os
import platform
from collections import Counter as Tally
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from prometheus_client import ProcessCollector

from forebay.admin.system import Worker
from forebay.observe import Family, Sample

__all__ = ["package_version", "process_families", "worker_families"]


def package_version() -> str:
    """The installed version of Forebay."""
    try:
        return version("forebay")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def process_families() -> list[Family]:
    """What this program is, and what this process (the supervisor) uses."""
    build = (("version", package_version()), ("python", platform.python_version()))
    families = [Family("forebay_build_info", "gauge", "What runs; always 1.", [Sample("", build, 1)])]
    for metric in ProcessCollector(registry=None).collect():
        samples = [Sample(s.name.removeprefix(metric.name), tuple(s.labels.items()), s.value) for s in metric.samples]
        kind: Literal["counter", "gauge"] = "counter" if metric.type == "counter" else "gauge"
        families.append(Family(metric.name, kind, metric.documentation, samples))
    return families


def worker_families(workers: Sequence[Worker]) -> list[Family]:
    """How many workers are in which state, and what their processes use."""
    states = Tally((worker.name, str(worker.state)) for worker in workers)
    memory, cpu = [], []
    for worker in workers:
        used = _usage(worker.pid) if worker.pid and worker.state != "draining" else None  # one process per place
        if used is not None:
            labels = (("worker", f"{worker.name}#{worker.index}"),)
            memory.append(Sample("", labels, used[0]))
            cpu.append(Sample("_total", labels, used[1]))
    by_state = [Sample("", (("spec", name), ("state", state)), count) for (name, state), count in states.items()]
    return [
        Family("forebay_workers", "gauge", "Worker processes by state.", by_state),
        Family("forebay_worker_resident_memory_bytes", "gauge", "Resident memory of a worker's process.", memory),
        Family("forebay_worker_cpu_seconds", "counter", "CPU time of a worker's present process.", cpu),
    ]


def _usage(pid: int) -> tuple[float, float] | None:
    """Resident bytes and CPU seconds of a process; None when it is gone, or there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")
