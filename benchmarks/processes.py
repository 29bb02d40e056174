"""Starting servers pinned to a core, adding up what their process tree has used, and ending them by their ids."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGESIZE")
ROOT = Path(__file__).parent.parent


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves, and which one loads it (and holds the backend of proxies)."""

    server: int
    load: int


def choose_cores() -> Cores:
    """The first two cores this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("two cores are needed: one for the server and one for the load")
    return Cores(usable[0], usable[1])


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def raise_descriptor_limit() -> None:
    """Let this process, and those it starts, open as many descriptors as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pinned(core: int | None) -> list[str]:
    """What to put before a command so that it runs on ``core``; it becomes the command, so the id is the command's."""
    return [] if core is None else ["taskset", "-c", str(core)]


@contextmanager
def started(
    command: Sequence[str], *, port: int, log: Path, core: int | None = None, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run ``command`` until the block ends; entered once ``port`` accepts. Gives the process id.

    :param core: where it runs; ``None``: wherever the kernel puts it.
    :param env: added to our environment.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pinned(core), *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
        )
    try:
        _await_port(process, port, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in tree(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait(10)


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    said = log.read_text(errors="replace").strip() or "it said nothing"
    raise BenchError(f"{process.args!r} does not listen on port {port}:\n{said}")


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the process tree so far, children that ended included."""
    ticks = 0
    for pid in tree(root):
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_SECOND


def memory_bytes(root: int) -> int:
    """Resident memory of the process tree."""
    pages = 0
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE_BYTES


def open_descriptors(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` after the command's name, which may hold anything; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()
