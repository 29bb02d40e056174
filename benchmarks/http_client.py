"""What a request costs the client that makes it: ours, aiohttp's and httpx's, in one run.

``python -m benchmarks.http_client``; a part of ``make bench``. The server has one core, the client the other; rounds
take turns, and the median over the rounds counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.http_client_load import WORKS, Load
from benchmarks.processes import Cores, choose_cores, free_port, pinned, started

__all__ = ["HEAD", "NAME", "NUMBERS", "TITLE", "WORDS", "Measured", "rows", "run"]

NAME = "http-client"
TITLE = "What a request costs its client"
HEAD = ("work", "client", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "ratio", "target", "")
NUMBERS = frozenset({2, 3, 4, 5, 6})
WORDS = (
    "CPU microseconds of the client's process for each request, medians; the ratio is ours to theirs. `get`: 13 bytes,",
    "64 at once, over connections that are kept. `download`, `upload`: 1 MiB, 8 at once. `crowd`: 1,000 at once over",
    "100 connections.",
)

TARGETS = {
    ("get", "aiohttp"): 0.4,
    ("get", "httpx"): 0.1,
    ("download", "aiohttp"): 0.7,
    ("upload", "aiohttp"): 0.7,
}
CLIENTS = ("forebay", "aiohttp", "httpx")


class Measured(msgspec.Struct, frozen=True):
    """One client at one work: medians."""

    work: str
    client: str
    load: Load


def run(cores: Cores, rounds: int = 3, seconds: float = 2.0) -> list[Measured]:
    """Each client at each work, in turns."""
    found: dict[tuple[str, str], list[Load]] = {}
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.servers.content", str(port)]
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        log = Path(folder) / "server.log"
        for name in WORKS:
            with started(command, port=port, log=log, core=cores.server):
                for _ in range(rounds):
                    for client in CLIENTS:
                        load = _one(client, name, f"http://127.0.0.1:{port}", seconds, cores.load)
                        found.setdefault((name, client), []).append(load)
    return [Measured(*key, _median(loads)) for key, loads in found.items()]


def _one(client: str, work: str, url: str, seconds: float, core: int) -> Load:
    command = [*pinned(core), sys.executable, "-m", "benchmarks.http_client_load", client, work, url, str(seconds)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=seconds + 60)
    return msgspec.json.decode(done.stdout, type=Load)


def _median(loads: list[Load]) -> Load:
    def of(name: str) -> float:
        return float(statistics.median(getattr(load, name) for load in loads))

    failed = sum(load.failed for load in loads)
    return Load(int(of("requests")), of("cpu_us"), of("per_second"), of("p50_ms"), of("p99_ms"), failed)


def rows(found: list[Measured]) -> list[tuple[str, ...]]:
    """A row for each."""
    ours = {one.work: one.load.cpu_us for one in found if one.client == "forebay"}
    made: list[tuple[str, ...]] = []
    for one in found:
        load = one.load
        words = ("", "", "")
        if one.client != "forebay":
            ratio = ours[one.work] / load.cpu_us
            target = TARGETS.get((one.work, one.client))
            met = "" if target is None else "met" if ratio <= target else "MISSED"
            words = (f"{ratio:.2f}", "" if target is None else f"at most {target:g}", met)
        if load.failed:
            words = (words[0], words[1], f"{load.failed} FAILED")
        made.append(
            (
                one.work,
                one.client,
                f"{load.cpu_us:,.1f}",
                f"{load.per_second:,.0f}",
                f"{load.p50_ms:,.2f}",
                f"{load.p99_ms:,.2f}",
                *words,
            )
        )
    return made


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Measurements of each client.")
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.1), help="Length of each.")
def main(rounds: int, seconds: float) -> None:
    """Measure the client beside others."""
    table = Table(title=TITLE, title_justify="left", box=SIMPLE)
    for number, column in enumerate(HEAD):
        table.add_column(column, justify="right" if number in NUMBERS else "left")
    for row in rows(run(choose_cores(), rounds, seconds)):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
