"""The arithmetic of the benchmarks, and the process tree they add up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.load import Measure
from benchmarks.peers import FOREBAY, SCENARIOS
from benchmarks.processes import cpu_seconds, tree
from benchmarks.report import Report, markdown, summarise

PLAIN = SCENARIOS[0]


def _measures(*cpu: float) -> list[Measure]:
    return [Measure(us, 1e6 / us, 500, 1500, 0) for us in cpu]


@pytest.mark.parametrize(("forebay", "met"), [((19.0, 8.0, 9.0), True), ((19.0, 11.0, 2.0), False)])
def test_medians_are_compared(forebay: tuple[float, ...], met: bool) -> None:
    """The ratio is that of the medians, and the target is met up to its ratio."""
    result = summarise(PLAIN, {FOREBAY: _measures(*forebay), "nginx": _measures(5.0, 1.0, 30.0)})
    assert result.target_ratio == 2.0
    assert result.ratio == sorted(forebay)[1] / 5.0
    assert result.met is met


def test_markdown_shows_every_peer_and_verdict() -> None:
    """The page has a row for each peer, the cheapest first, and one for each target."""
    result = summarise(PLAIN, {FOREBAY: _measures(8.0), "nginx": _measures(5.0)})
    page = markdown(Report("2030-01-02T03:04:05+00:00", {"CPU": "x", "Linux": "6"}, 1, 5, [result]))
    assert "`make bench`, 2030-01-02: CPU x; Linux 6." in page
    assert "| nginx | 5.0 | 0.62 | 200,000 | 0.50 | 1.50 | 0 |\n| Forebay | 8.0 | 1.00 |" in page
    assert "| Plain 13-byte response | at most 2.00 x nginx | 1.60 | met |" in page


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


def test_every_target_names_a_peer_of_its_scenario() -> None:
    """Forebay comes first, and what it is compared with is measured even without a Go toolchain."""
    for scenario in SCENARIOS:
        assert scenario.peers[0].name == FOREBAY
        if scenario.target is not None:
            assert scenario.target.peer in [peer.name for peer in scenario.peers if not peer.needs_go]
