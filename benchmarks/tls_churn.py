"""TLS clients that come and go: ``python -m benchmarks.tls_churn``, or ``make soak ARGS=tls``.

After every round of clients the server's memory is read; that it does not grow from the fifth round to the last shows
that nothing of a connection stays behind. So do its descriptors, which have to be as many as before the first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trustme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.orders import Client, client
from benchmarks.processes import (
    BenchError,
    choose_cores,
    cpu_seconds,
    free_port,
    memory_bytes,
    open_descriptors,
    started,
)
from benchmarks.verdicts import Verdict, finish

GROWTH = 1.05  # of the memory after the reference round, at most
REFERENCE = 5  # the round the last one is compared with; by then caches are full
SETTLE = 5.0  # seconds for the last connections of a round to be gone
LOOPS = ("uvloop", "asyncio")


@dataclass(slots=True)
class Churned:
    """What came of it on one loop."""

    loop: str
    memory: list[int] = field(default_factory=list)  # bytes, after each round
    failed: int = 0
    left: int = 0  # descriptors, after the last round, that were not there before the first
    cpu_ms: float = 0.0  # for each client
    said: str = ""  # why the first client failed, if one did

    @property
    def growth(self) -> float:
        """The memory after the last round, to that after the reference round."""
        return self.memory[-1] / self.memory[min(REFERENCE, len(self.memory)) - 1]


def churn(loop: str, rounds: int, clients: int, advance: Callable[[], None]) -> Churned:
    """Have clients come and go. ``advance`` is called after each round."""
    cores = choose_cores()
    churned = Churned(loop)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        ca = trustme.CA()
        issued = ca.issue_cert("localhost")
        paths = [folder / part for part in ("ca.pem", "certificate.pem", "key.pem")]
        ca.cert_pem.write_to_path(str(paths[0]))
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(paths[1]), append=number > 0)
        issued.private_key_pem.write_to_path(str(paths[2]))
        command = [sys.executable, "-m", "benchmarks.servers.tls_echo", str(port), str(paths[1]), str(paths[2])]
        log = folder / "server.log"
        with (
            started(command, core=cores.server, port=port, log=log, env={"FOREBAY_LOOP": loop}) as pid,
            client("benchmarks.tls_load", [port, paths[0]], core=cores.load) as crowd,
        ):
            if f"loop {loop}" not in log.read_text():
                raise BenchError(f"the server does not run on {loop}")
            _order(crowd, loop, 10)
            before = settled(pid, 0)
            for _ in range(rounds):
                cpu = cpu_seconds(pid)
                outcome = _order(crowd, loop, clients)
                churned.left = settled(pid, before) - before
                churned.cpu_ms = (cpu_seconds(pid) - cpu) / clients * 1e3
                churned.failed += outcome["failed"]
                churned.said = churned.said or outcome["first"]
                churned.memory.append(memory_bytes(pid))
                advance()
    return churned


def _order(crowd: Client, loop: str, clients: int) -> dict[str, Any]:
    outcome = crowd.order("round", clients)
    if outcome["failed"] > clients / 2:
        raise BenchError(f"{loop}: {outcome['failed']} of {clients} clients failed: {outcome['first']}")
    return outcome


def settled(pid: int, expected: int) -> int:
    """How many descriptors the process has open, once they are not more than ``expected`` or do not get fewer."""
    deadline = time.monotonic() + (SETTLE if expected else 1.0)
    while (count := open_descriptors(pid)) > expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return count


def verdicts(all_churned: list[Churned]) -> list[Verdict]:
    """What the numbers come to."""
    made = []
    for one in all_churned:
        growth = f"{one.growth:.3f} x"
        what = f"{one.loop}: memory after the last round, to that after round {min(REFERENCE, len(one.memory))}"
        made.append(Verdict(what, growth, f"at most {GROWTH} x", one.growth <= GROWTH))
        made.append(Verdict(f"{one.loop}: clients that failed", str(one.failed), "0", one.failed == 0))
        made.append(Verdict(f"{one.loop}: descriptors left", str(one.left), "0", one.left <= 0))
    return made


@click.command()
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--clients", default=2000, show_default=True, type=click.IntRange(1), help="In each.")
@click.option("--loop", "loops", multiple=True, type=click.Choice(LOOPS), help="Leave out the other.")
def main(rounds: int, clients: int, loops: tuple[str, ...]) -> None:
    """Whether TLS connections leave anything behind.

    Example: python -m benchmarks.tls_churn --rounds 3 --clients 100
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    chosen = loops or LOOPS
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=rounds * len(chosen))
            results = []
            for loop in chosen:
                bar.update(task, description=f"rounds of {clients:,} clients: {loop}")
                results.append(churn(loop, rounds, clients, lambda: bar.advance(task)))
    except BenchError as error:
        sys.exit(f"tls_churn: {error}")
    for one in results:
        memory = " ".join(f"{size / 2**20:.2f}" for size in one.memory)
        console.print(
            f"{one.loop}: {clients:,} clients a round, {one.cpu_ms:.2f} ms of CPU each; MiB after each round:"
        )
        console.print(f"  {memory}")
        if one.said:
            console.print(f"  the first client that failed: {one.said}", markup=False)
    sys.exit(finish(console, verdicts(results)))


if __name__ == "__main__":
    main()
