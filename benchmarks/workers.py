"""What a second worker brings: ``python -m benchmarks.workers``, or ``make soak ARGS=workers``.

A handler that uses up 200 us of CPU time for each message, behind ``forebay run --workers 1`` and ``--workers 2``. 64
connections have one message in flight each (a closed loop), so both workers always have work. Nothing is pinned: the
load takes its share of the same cores, which is reported, and which the second worker does not get. One worker and two
take turns, and the medians are compared.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.load import CONNECTIONS, Measure, measure, median, tcp_load
from benchmarks.peers import Place, forebay_run
from benchmarks.processes import BenchError, free_port, started
from benchmarks.verdicts import Verdict, finish

RATIO = 1.7  # of one worker's throughput, at least
WARM_UP = 1  # seconds


def measure_workers(workers: int, seconds: int) -> Measure:
    """The throughput of so many workers, once."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        command = forebay_run("burn", "tcp", workers)(Place(port, folder))
        with started(command, port=port, log=folder / "server.log") as pid:
            measure(tcp_load(port, WARM_UP), server=pid)
            return measure(tcp_load(port, seconds), server=pid)


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Measurements of each.")
@click.option("--seconds", default=5, show_default=True, type=click.IntRange(1), help="Length of each.")
def main(rounds: int, seconds: int) -> None:
    """The CPU-bound throughput of two workers, to that of one.

    Example: python -m benchmarks.workers --rounds 1 --seconds 1
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    measures: dict[int, list[Measure]] = {1: [], 2: []}
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=2 * rounds)
            for number in range(rounds):
                for workers in (1, 2) if number % 2 == 0 else (2, 1):
                    bar.update(task, description=f"workers: {workers}")
                    measures[workers].append(measure_workers(workers, seconds))
                    bar.update(task, advance=1)
    except BenchError as error:
        sys.exit(f"workers: {error}")
    medians = {workers: median(each) for workers, each in measures.items()}
    console.print(
        f"Medians of {rounds} rounds of {seconds} s; {CONNECTIONS} connections, one message in flight on each, 200 us "
        f"of CPU time a message; {len(os.sched_getaffinity(0))} cores, shared with the load."
    )
    for workers, each in medians.items():
        console.print(
            f"  workers {workers}: {each.per_second:,.0f} messages/s, {each.cpu_us:.0f} us of CPU a message; the "
            f"server uses {each.server_busy:.2f} cores, the load {each.load_busy or 0:.2f}; {each.errors} errors"
        )
    sys.exit(finish(console, [verdict(medians[1], medians[2])]))


def verdict(one: Measure, two: Measure) -> Verdict:
    """What the numbers come to."""
    ratio = two.per_second / one.per_second
    met = ratio >= RATIO and not one.errors and not two.errors
    return Verdict("throughput of 2 workers, to that of 1", f"{ratio:.2f} x", f"at least {RATIO} x", met)


if __name__ == "__main__":
    main()
