"""The command: measures the scenarios chosen, prints the tables, and writes them to ``benchmarks/results/``."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import connections, golang, http_client, policies
from benchmarks.golang import Built
from benchmarks.load import Measure, measure
from benchmarks.peers import Peer, Place, find_nginx, nginx_return
from benchmarks.processes import BenchError, Cores, choose_cores, free_port, started
from benchmarks.report import Report, markdown, summarise, tables
from benchmarks.scenarios import SCENARIOS, Scenario

RESULTS = Path(__file__).parent / "results"
WARM_UP = 1  # seconds
PACKAGES = (
    "forebay",
    "uvloop",
    "httptools",
    "msgspec",
    "uvicorn",
    "starlette",
    "fastapi",
    "pydantic",
    "blacksheep",
    "granian",
    "picows",
    "websockets",
    "twisted",
    "pybreaker",
    "aiolimiter",
    "tenacity",
    "stamina",
)


def measure_peer(scenario: Scenario, peer: Peer, cores: Cores, seconds: int, built: Built) -> Measure:
    """Start the peer (and its backend), warm it up, measure it, end it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        backend_port = 0
        if scenario.has_backend:
            backend_port = free_port()
            (folder / "backend").mkdir()
            command = nginx_return(Place(backend_port, folder / "backend"))
            stack.enter_context(started(command, core=cores.load, port=backend_port, log=folder / "backend.log"))
        port = free_port()
        command = peer.command(Place(port, folder, backend_port, built.programs))
        pid = stack.enter_context(started(command, core=cores.server, port=port, log=folder / "server.log"))
        measure(scenario.load(port, WARM_UP), core=cores.load, server=pid)
        return measure(scenario.load(port, seconds), core=cores.load, server=pid)


def available(peers: Sequence[Peer], built: Built) -> list[Peer]:
    """Those for which this machine has what they need."""
    return [peer for peer in peers if not peer.needs or peer.needs in built.programs]


def run(
    scenarios: Sequence[Scenario],
    rounds: int,
    seconds: int,
    built: Built,
    advance: Callable[[str], None],
    *,
    sweep: bool,
    decisions: bool,
    asked: bool,
) -> Report:
    """Measure: in each round of a scenario every peer once, so that what disturbs the machine disturbs all of them."""
    cores = choose_cores()
    machine = describe_machine()
    results = []
    for scenario in scenarios:
        peers = available(scenario.peers, built)
        measures: dict[str, list[Measure]] = {peer.name: [] for peer in peers}
        for number in range(rounds):
            for peer in peers if number % 2 == 0 else reversed(peers):
                advance(f"{scenario.name}: {peer.name}")
                measures[peer.name].append(measure_peer(scenario, peer, cores, seconds, built))
        results.append(summarise(scenario, measures))
    swept = None
    if sweep:
        peers = available(connections.PEERS, built)
        swept = connections.run(rounds, seconds, built.programs, cores, advance, peers=peers)
    costs = []
    if decisions:
        advance(policies.TITLE)
        costs = policies.run(cores.server)
    clients = []
    if asked:
        advance(http_client.TITLE)
        clients = http_client.run(cores, rounds)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(at, machine, rounds, seconds, results, swept, costs, clients)


def write_page(report: Report, page: Path) -> None:
    """Write the Markdown, and beside it the plot it shows, if there is one."""
    picture = page.with_name(f"{page.stem}-connections.svg")
    if report.sweep is not None:
        picture.write_text(connections.picture(report.sweep))
    page.write_text(markdown(report, picture.name))


def describe_machine() -> dict[str, str]:
    """What the numbers depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = {name: version(name) for name in PACKAGES}
    return {
        "CPU": cpu[1].strip() if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "Linux": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        **packages,
        "nginx": _program_version(find_nginx(), "-v"),
        "Go": _program_version(golang.find_go(), "version"),
        "gnet": golang.gnet_version(),
        "Gin": golang.gin_version(),
        "Go of Gin": _program_version(golang.debian_go(), "version"),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _program_version(program: str | None, argument: str) -> str:
    if program is None:
        return "none"
    done = subprocess.run([program, argument], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.[\d.]+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


NAMES = [*(scenario.name for scenario in SCENARIOS), connections.NAME, policies.NAME, http_client.NAME]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Measurements of each server.")
@click.option("--seconds", default=5, show_default=True, type=click.IntRange(1), help="Length of each.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Leave out the others.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the Markdown here as well.")
def main(rounds: int, seconds: int, only: tuple[str, ...], save: Path | None) -> None:
    """Measure Forebay and its peers: CPU time for each request, throughput and latency.

    Example: python -m benchmarks --rounds 1 --seconds 2 --only tcp
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    scenarios = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    sweep = not only or connections.NAME in only
    decisions = not only or policies.NAME in only
    asked = not only or http_client.NAME in only
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, Progress(*columns, console=console) as bar:
            built = golang.build(Path(folder))
            for note in built.notes:
                console.print(note, highlight=False, markup=False)
            total = sum(len(available(scenario.peers, built)) for scenario in scenarios)
            total += len(available(connections.PEERS, built)) * len(connections.COUNTS) if sweep else 0
            task = bar.add_task("", total=total * rounds + decisions + asked, completed=-1)

            def advance(description: str) -> None:
                bar.update(task, advance=1, description=description)

            report = run(scenarios, rounds, seconds, built, advance, sweep=sweep, decisions=decisions, asked=asked)
            bar.update(task, advance=1, description="done")
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
    for table in tables(report):
        console.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    for page in (RESULTS / "latest.md", save):
        if page is not None:
            write_page(report, page)
    console.print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
