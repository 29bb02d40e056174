"""Medians over the rounds, the ratios they are judged by, and how they are shown: on the terminal, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import connections
from benchmarks.connections import Sweep
from benchmarks.load import Measure, median
from benchmarks.scenarios import FOREBAY, Scenario

__all__ = ["PeerResult", "Report", "ScenarioResult", "markdown", "summarise", "tables"]


class PeerResult(msgspec.Struct, frozen=True):
    """One server: the median of each number over the rounds, and the rounds."""

    name: str
    median: Measure
    rounds: list[Measure]


class Judged(msgspec.Struct, frozen=True):
    """One target: Forebay's CPU time for each request over that of ``peer``, which is to be at most ``most``."""

    peer: str
    most: float
    ratio: float

    @property
    def met(self) -> bool:
        """Whether it is met."""
        return self.ratio <= self.most


class ScenarioResult(msgspec.Struct, frozen=True):
    """One scenario, and its targets, where there are any."""

    name: str
    title: str
    peers: list[PeerResult]
    judged: list[Judged]


class Report(msgspec.Struct, frozen=True):
    """One run of the benchmarks."""

    made_at: str  # ISO 8601, UTC
    machine: dict[str, str]
    rounds: int
    seconds: int  # of each measurement
    scenarios: list[ScenarioResult]
    sweep: Sweep | None = None  # over the number of connections


def summarise(scenario: Scenario, measures: Mapping[str, Sequence[Measure]]) -> ScenarioResult:
    """The result of a scenario from the rounds of each peer that was measured."""
    peers = [PeerResult(name, median(rounds), list(rounds)) for name, rounds in measures.items()]
    cpu = {peer.name: peer.median.cpu_us for peer in peers}
    judged = []
    for target in scenario.targets:
        cheapest = min(target.peers, key=lambda name: cpu[name])
        judged.append(Judged(cheapest, target.ratio, cpu[FOREBAY] / cpu[cheapest]))
    return ScenarioResult(scenario.name, scenario.title, peers, judged)


COLUMNS = ("CPU us", "to Forebay", "requests/s", "p50 ms", "p99 ms", "errors", "server", "load")


def _rows(result: ScenarioResult) -> list[tuple[str, ...]]:
    forebay = next(peer.median.cpu_us for peer in result.peers if peer.name == FOREBAY)
    rows: list[tuple[str, ...]] = []
    for peer in sorted(result.peers, key=lambda peer: peer.median.cpu_us):
        m = peer.median
        numbers = f"{m.cpu_us:.1f}", f"{m.cpu_us / forebay:.2f}", f"{m.per_second:,.0f}"
        busy = f"{m.server_busy:.0%}", "" if m.load_busy is None else f"{m.load_busy:.0%}"
        rows.append((peer.name, *numbers, f"{m.p50_us / 1e3:.2f}", f"{m.p99_us / 1e3:.2f}", str(m.errors), *busy))
    return rows


def _verdicts(report: Report) -> list[tuple[tuple[str, ...], bool]]:
    """A row for each target, and whether it is met."""
    made: list[tuple[tuple[str, ...], bool]] = []
    for result in report.scenarios:
        for one in result.judged:
            words = f"at most {one.most:.2f} x {one.peer}", f"{one.ratio:.2f}", "met" if one.met else "missed"
            made.append(((result.title, *words), one.met))
    return made


def tables(report: Report) -> list[Table]:
    """For the terminal: one table for each scenario, then the targets."""
    made = []
    for result in report.scenarios:
        table = Table(title=result.title, title_justify="left", box=SIMPLE)
        table.add_column("", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for row in _rows(result):
            table.add_row(*row, style="bold" if row[0] == FOREBAY else None)
        made.append(table)
    if report.sweep is not None:
        table = Table(title=connections.TITLE, title_justify="left", box=SIMPLE)
        for number, column in enumerate(connections.HEAD):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in connections.rows(report.sweep):
            table.add_row(*row, style="bold" if row[0] == FOREBAY else None)
        made.append(table)
    verdicts = _verdicts(report)
    if not verdicts:
        return made
    targets = Table("", "target", "measured", "", title="CPU time for each request", title_justify="left", box=SIMPLE)
    for row, met in verdicts:
        targets.add_row(*row, style="green" if met else "red")
    return [*made, targets]


def markdown(report: Report, picture: str = "") -> str:
    """The same as a page of the documentation.

    :param picture: where the plot over the number of connections is, seen from the page.
    """
    machine = "; ".join(f"{name} {value}" for name, value in report.machine.items())
    parts = [
        "# Measured",
        "",
        f"`make bench`, {report.made_at[:10]}: {machine}.",
        "",
        f"Medians of {report.rounds} rounds of {report.seconds} s, after 1 s of warm-up; the servers take turns. The",
        "server has one core, the load (and the backend of the proxies) another. CPU time is user and system time of",
        "the server's whole process tree, Forebay's supervisor included, over the requests answered. HTTP requests",
        "carry 8 headers over 64 connections; echoes over TCP and WebSocket have one message in flight on each of 64",
        "connections.",
        "",
        "CPU us is microseconds for each request or message; server and load say how busy their cores were. Where the",
        "load was busy throughout, the throughput is the load's, and only the CPU time compares the servers.",
        "",
        "Forebay remembers request and response heads that repeat. Where no two requests are alike, each has its own",
        "`X-Request-Id` and query: that is what it costs when there is nothing to remember.",
    ]
    for result in report.scenarios:
        parts += ["", f"## {result.title}", "", *_markdown_table(("", *COLUMNS), _rows(result), left=1)]
    if report.sweep is not None:
        parts += ["", f"## {connections.TITLE}", ""]
        parts += [f"![Throughput and CPU time over the number of connections]({picture})", ""] if picture else []
        parts += [
            "The load is one Python process on one core. Where it is what bounds the throughput, the server could do",
            "more, and the CPU time for each message says how much. With one connection nobody is busy: what is seen",
            "is the way there and back.",
            "",
            *_markdown_table(connections.HEAD, connections.rows(report.sweep), left=1),
        ]
    verdicts = [row for row, _ in _verdicts(report)]
    if verdicts:
        parts += ["", "## Targets", "", *_markdown_table(("", "target", "measured", ""), verdicts, left=2)]
    return "\n".join([*parts, ""])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
