"""The room, as small as it can be: that nothing is lost, that it counts right, and judges right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import broadcast
from benchmarks.broadcast import Delivered, Results, Talk, run, verdicts
from benchmarks.peers import Peer

pytestmark = pytest.mark.timeout(60)

FEW = Talk(members=20, rate=50, size=256, seconds=1.0)


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("peer", [broadcast.ROOM, broadcast.PEER], ids=lambda peer: peer.name)
def test_every_member_gets_every_message(peer: Peer, deflate: bool) -> None:
    """50 messages to 20 members are 1,000, compressed or not."""
    parts: list[float] = []
    (delivered,) = run(peer, FEW, parts.append, deflate=deflate)
    assert (delivered.messages, delivered.delivered, delivered.lost) == (50, 1000, 0)
    assert 0 < delivered.p50_ms <= delivered.p99_ms <= delivered.worst_ms
    assert delivered.cpu_us > 0
    assert parts[-1] == 1.0


def test_a_member_that_does_not_read_is_cut_and_nobody_else_loses_anything() -> None:
    """So much is said that the kernel cannot keep all of it: what the server would have to keep passes the limit."""
    alone, beside = run(broadcast.ROOM, Talk(10, 500, 2048, 1.0), lambda done: None, stalled=True)
    assert (alone.lost, beside.lost) == (0, 0)
    assert (alone.stalled_cut, beside.stalled_cut) == (False, True)


def test_a_member_that_does_not_read_is_kept_without_a_policy() -> None:
    """websockets keeps all that waits for it: that is told apart."""
    _, beside = run(broadcast.PEER, Talk(10, 500, 1024, 0.5), lambda done: None, stalled=True)
    assert (beside.lost, beside.stalled_cut) == (0, False)


def test_broadcast_verdicts() -> None:
    """Each target has its bound: nothing lost, two ratios, a policy that is applied, and nobody who notices."""
    ours = Delivered("Forebay", 9.0, 0.5, 100, 1000, 0, 1.0, 1.0, 10.0, 12.0, stalled_cut=False)
    theirs = replace(ours, name="websockets.broadcast", cpu_us=10.0, lost=5)
    deflate, deflate_peer = replace(ours, cpu_us=3.0), replace(theirs, cpu_us=10.0)
    beside = replace(ours, p99_ms=15.0, stalled_cut=True)
    good = Results(ours, theirs, deflate, deflate_peer, beside)
    assert [verdict.met for verdict in verdicts(good)] == [True] * 5
    bad = Results(
        replace(ours, cpu_us=9.1),
        theirs,
        replace(deflate, cpu_us=3.1, lost=1),
        deflate_peer,
        replace(beside, p99_ms=15.1, stalled_cut=False),
    )
    assert [verdict.met for verdict in verdicts(bad)] == [False] * 5
