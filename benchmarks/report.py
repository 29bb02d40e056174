"""Medians over the rounds, the ratios they are judged by, and how they are shown: on the terminal, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import connections, http_client, policies
from benchmarks.connections import Sweep
from benchmarks.http_client import Measured
from benchmarks.load import Measure, median
from benchmarks.policies import Cost
from benchmarks.scenarios import FOREBAY, Scenario, Target

__all__ = ["PeerResult", "Report", "ScenarioResult", "markdown", "summarise", "tables"]


class PeerResult(msgspec.Struct, frozen=True):
    """One server: the median of each number over the rounds, and the rounds."""

    name: str
    median: Measure
    rounds: list[Measure]


class Judged(msgspec.Struct, frozen=True):
    """One target: Forebay's CPU time for each request, which is to be at most ``most`` times that of ``peer`` (``unit``
    is ``x``), or at most ``most`` microseconds more (``us``). ``measured`` is what it is; None where no peer was there.
    """

    peer: str
    most: float
    unit: Literal["x", "us"]
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None where that is not known."""
        return None if self.measured is None else self.measured <= self.most

    def words(self) -> tuple[str, str, str]:
        """The target, what was measured, and what that comes to."""
        times = self.unit == "x"
        wanted = f"at most {self.most:.2f} x {self.peer}" if times else f"at most {self.most:.1f} us above {self.peer}"
        if self.measured is None:
            return wanted, "", "not measured"
        found = f"{self.measured:.2f}" if times else f"{self.measured:+.1f} us"
        return wanted, found, "met" if self.met else "missed"


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
    decisions: list[Cost] = []  # what policies cost
    clients: list[Measured] = []  # what a request costs its client


def summarise(scenario: Scenario, measures: Mapping[str, Sequence[Measure]]) -> ScenarioResult:
    """The result of a scenario from the rounds of each peer that was measured."""
    peers = [PeerResult(name, median(rounds), list(rounds)) for name, rounds in measures.items()]
    cpu = {peer.name: peer.median.cpu_us for peer in peers}
    judged = [_judge(target, measures, cpu) for target in scenario.targets]
    return ScenarioResult(scenario.name, scenario.title, peers, judged)


def _judge(target: Target, measures: Mapping[str, Sequence[Measure]], cpu: Mapping[str, float]) -> Judged:
    """Medians are divided. They are not subtracted: the rounds are, and it is the median of that, since what slows the
    machine down for a while slows both down in the same rounds, and would be the greater part of a small difference.
    """
    there = [name for name in target.peers if name in cpu]
    if not there:
        return Judged(" or ".join(target.peers), target.most, target.unit, None)
    cheapest = min(there, key=lambda name: cpu[name])
    if target.unit == "x":
        return Judged(cheapest, target.most, "x", cpu[FOREBAY] / cpu[cheapest])
    rounds = zip(measures[FOREBAY], measures[cheapest], strict=True)
    return Judged(cheapest, target.most, "us", statistics.median(ours.cpu_us - its.cpu_us for ours, its in rounds))


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


def _verdicts(report: Report) -> list[tuple[tuple[str, ...], bool | None]]:
    """A row for each target, and whether it is met."""
    return [((result.title, *one.words()), one.met) for result in report.scenarios for one in result.judged]


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
    if report.decisions:
        table = Table(title=policies.TITLE, title_justify="left", box=SIMPLE)
        for number, column in enumerate(policies.HEAD):
            table.add_column(column, justify="right" if number == policies.NUMBER else "left")
        for row in policies.rows(report.decisions):
            table.add_row(*row)
        made.append(table)
    if report.clients:
        table = Table(title=http_client.TITLE, title_justify="left", box=SIMPLE)
        for number, column in enumerate(http_client.HEAD):
            table.add_column(column, justify="right" if number in http_client.NUMBERS else "left")
        for row in http_client.rows(report.clients):
            table.add_row(*row)
        made.append(table)
    verdicts = _verdicts(report)
    if not verdicts:
        return made
    targets = Table("", "target", "measured", "", title="CPU time for each request", title_justify="left", box=SIMPLE)
    for row, met in verdicts:
        targets.add_row(*row, style={True: "green", False: "red", None: "yellow"}[met])
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
    if report.decisions:
        parts += ["", f"## {policies.TITLE}", "", *policies.WORDS, ""]
        parts += _markdown_table(policies.HEAD, policies.rows(report.decisions), left=2)
    if report.clients:
        parts += ["", f"## {http_client.TITLE}", "", *http_client.WORDS, ""]
        parts += _markdown_table(http_client.HEAD, http_client.rows(report.clients), left=2)
    verdicts = [row for row, _ in _verdicts(report)]
    if verdicts:
        parts += ["", "## Targets", "", *_markdown_table(("", "target", "measured", ""), verdicts, left=2)]
    return "\n".join([*parts, ""])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
