"""The arithmetic of the benchmarks, and the process tree they add up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import connections
from benchmarks.connections import Sweep
from benchmarks.load import Measure
from benchmarks.processes import cpu_seconds, memory_bytes, tree
from benchmarks.report import Report, markdown, summarise, tables
from benchmarks.scenarios import FOREBAY, SCENARIOS, Scenario, Target

GRANIAN = ("granian, RSGI", "granian, ASGI")
PLAIN = Scenario(
    name="plain",
    title="Plain 13-byte response",
    load=lambda port, seconds: [],
    peers=(),
    targets=(Target(("nginx",), 2.0), Target(GRANIAN, 0.65)),
)


def _measures(*cpu: float) -> list[Measure]:
    return [Measure(us, 1e6 / us, 500, 1500, 0, server_busy=0.5, load_busy=0.2) for us in cpu]


@pytest.mark.parametrize(("forebay", "met"), [((19.0, 8.0, 9.0), True), ((19.0, 11.0, 2.0), False)])
def test_medians_are_compared(forebay: tuple[float, ...], met: bool) -> None:
    """The ratio is that of the medians, and the target is met up to its ratio."""
    measures = {FOREBAY: _measures(*forebay), "nginx": _measures(5.0, 1.0, 30.0)}
    result = summarise(PLAIN, {**measures, **dict.fromkeys(GRANIAN, _measures(20.0))})
    assert result.judged[0].most == 2.0
    assert result.judged[0].measured == sorted(forebay)[1] / 5.0
    assert result.judged[0].met is met


@pytest.mark.parametrize("best", GRANIAN)
def test_the_best_of_several_peers_counts(best: str) -> None:
    """Where a server can be driven in more than one way, the cheapest is what we are compared with."""
    peers = {name: _measures(12.0 if name == best else 18.0) for name in GRANIAN}
    result = summarise(PLAIN, {FOREBAY: _measures(9.0), "nginx": _measures(5.0), **peers})
    assert (result.judged[1].peer, result.judged[1].measured, result.judged[1].met) == (best, 0.75, False)


@pytest.mark.parametrize(("alone", "more", "met"), [((9.0, 15.0, 9.5), 2.0, True), ((9.0, 14.0, 9.5), 3.0, False)])
def test_what_is_added_is_that_of_the_same_round(alone: tuple[float, ...], more: float, met: bool) -> None:
    """The median of the differences, and not the difference of the medians; the target is met up to its number."""
    scenario = Scenario("more", "With more", lambda port, seconds: [], (), (Target(("alone",), 2.0, "us"),))
    result = summarise(scenario, {FOREBAY: _measures(11.0, 17.0, 12.5), "alone": _measures(*alone)})
    (judged,) = result.judged
    assert (judged.peer, judged.measured, judged.met) == ("alone", more, met)
    report = Report("2030-01-02T03:04:05+00:00", {"CPU": "x"}, 3, 5, [result])
    word = "met" if met else "missed"
    assert f"| With more | at most 2.0 us above alone | +{more} us | {word} |" in markdown(report)


def test_a_target_without_its_peer_is_said_to_be_not_measured() -> None:
    """What this machine lacks is neither met nor missed, and keeps nothing else from being judged."""
    result = summarise(PLAIN, {FOREBAY: _measures(9.0), "nginx": _measures(9.0)})
    assert [judged.met for judged in result.judged] == [True, None]
    report = Report("2030-01-02T03:04:05+00:00", {"CPU": "x"}, 1, 5, [result])
    wanted = "at most 0.65 x granian, RSGI or granian, ASGI"
    assert f"| Plain 13-byte response | {wanted} |  | not measured |" in markdown(report)
    assert len(tables(report)) == 2


def test_markdown_shows_every_peer_and_verdict() -> None:
    """The page has a row for each peer, the cheapest first, and one for each target."""
    peers = {"nginx": _measures(5.0), **dict.fromkeys(GRANIAN, _measures(10.0))}
    result = summarise(PLAIN, {FOREBAY: _measures(8.0), **peers})
    page = markdown(Report("2030-01-02T03:04:05+00:00", {"CPU": "x", "Linux": "6"}, 1, 5, [result]))
    assert "`make bench`, 2030-01-02: CPU x; Linux 6." in page
    assert "| nginx | 5.0 | 0.62 | 200,000 | 0.50 | 1.50 | 0 | 50% | 20% |\n| Forebay | 8.0 | 1.00 |" in page
    assert "| Plain 13-byte response | at most 2.00 x nginx | 1.60 | met |" in page
    assert "| Plain 13-byte response | at most 0.65 x granian, RSGI | 0.80 | missed |" in page


def test_a_run_without_targets_shows_none() -> None:
    """A page of the plot alone has no list of targets, and shows the picture, and every server at every number."""
    sweep = Sweep([1, 100], {FOREBAY: _measures(9.0, 4.0), "gnet": _measures(8.0, 3.5)})
    report = Report("2030-01-02T03:04:05+00:00", {"CPU": "x"}, 1, 5, [], sweep)
    page = markdown(report, "plot.svg")
    assert "Targets" not in page
    assert "](plot.svg)" in page
    assert "| gnet | 100 | 3.5 | 285,714 | 0.50 | 1.50 | 0 | 50% | 20% | neither |" in page
    assert len(tables(report)) == 1


@pytest.mark.parametrize(
    ("server", "load", "by"),
    [(0.99, 0.99, "server"), (0.7, 0.97, "load"), (0.3, 0.4, "neither"), (0.5, None, "neither")],
)
def test_who_bounds_the_throughput_is_said(server: float, load: float | None, by: str) -> None:
    """The server does when its core is full, else the load when its own is."""
    assert connections.bound(Measure(5, 1e5, 1, 1, 0, server_busy=server, load_busy=load)) == by


def test_the_picture_shows_every_server_twice() -> None:
    """Throughput on the left, CPU time on the right, each with a marker for each number of connections."""
    sweep = Sweep([1, 100], {FOREBAY: _measures(9.0, 4.0), "gnet": _measures(8.0, 3.5)})
    svg = connections.picture(sweep)
    assert svg.count("<circle") == 2 * 2 + 1  # and one in the legend
    assert svg.count("<polyline") == 4


def test_memory_of_this_process_is_more_than_nothing() -> None:
    """Resident memory is counted in bytes."""
    assert memory_bytes(os.getpid()) > 10 * 2**20


def test_cpu_time_of_the_whole_tree_counts() -> None:
    """The CPU time of a grandchild is added to that of the process that was started, also when it has ended."""
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\nif {wait}: input()"
    parent = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}.format(wait=sys.argv[1])])\ninput()"
    )
    for wait in (True, False):
        command = [sys.executable, "-c", parent, str(wait)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert process.pid in tree(os.getpid())
            if wait:
                assert len(tree(process.pid)) == 2
            else:  # it ends now; its time moves to its parent when that has waited for it
                while len(tree(process.pid)) > 1:
                    os.sched_yield()
            assert cpu_seconds(process.pid) >= 0.2
            process.communicate(b"\n\n")


def test_every_target_names_peers_of_its_scenario() -> None:
    """Forebay comes first, and is compared with what is measured beside it."""
    for scenario in SCENARIOS:
        assert scenario.peers[0].name == FOREBAY
        for target in scenario.targets:
            assert set(target.peers) <= {peer.name for peer in scenario.peers[1:]}
