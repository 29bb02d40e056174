"""The long runs, as short as they can be: that they run, count right, and judge right."""

from __future__ import annotations

import socket

import pytest
from rich.console import Console

import fuzz
from benchmarks import broadcast, idle, idle_http, tls_churn, workers
from benchmarks.idle import Loaded, Rested
from benchmarks.idle_load import MESSAGE_BYTES, Crowd, message
from benchmarks.load import Measure
from benchmarks.peers import Peer
from benchmarks.soak import PARTS
from benchmarks.tls_churn import Churned
from benchmarks.verdicts import Verdict, finish

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("peer", [idle.WATCHED, idle.PLAIN], ids=lambda peer: peer.name)
def test_connections_talk_and_none_is_lost(peer: Peer) -> None:
    """100 connections for 2 s: a message each 10 s and a heartbeat each 30 s are 20 and 7, and all are echoed."""
    parts: list[float] = []
    loaded = idle.load(peer, 100, 2.0, parts.append)
    assert loaded.lost == 0
    assert loaded.messages in (20, 21)
    assert loaded.beats in (6, 7, 8)
    assert parts[-1] == 1.0
    assert parts == sorted(parts)


def test_connections_rest() -> None:
    """With nothing to do they stay; their heartbeats are half a minute away."""
    rested = idle.rest(idle.QUIET_PINGED, 20, 0.5, lambda done: None)
    assert (rested.pings, rested.lost) == (0, 0)


def test_every_idle_server_can_be_started() -> None:
    """Those that the smoke tests above leave out echo too."""
    for peer in (idle.UNWATCHED, idle.QUIET, idle.QUIET_WATCHED):
        with idle.serving(peer) as (_, crowd):
            assert crowd.order("open", 3) == {"open": 3}


def test_no_two_messages_are_alike() -> None:
    """An echo that was mixed up with another connection's, or came late, is wrong."""
    made = {message(connection, turn) for connection in range(50) for turn in range(5)}
    assert len(made) == 250
    assert {len(each) for each in made} == {MESSAGE_BYTES}


def test_a_crowd_counts_what_goes_wrong() -> None:
    """Wrong echoes and dropped connections are counted, each once, and pings are answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        crowd = Crowd(listener.getsockname()[1])
        ends = []
        for number in range(3):
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            theirs.settimeout(5)
            ends.append(theirs)
            crowd.sockets.append(ours)
            crowd.numbers[ours.fileno()] = number
            crowd.awaited.append(b"")
            crowd.asked_at.append(0.0)
            crowd.epoll.register(ours.fileno(), 1)
        crowd.send(0, b"right\n")
        crowd.send(1, b"right\n")
        ends[0].sendall(b"ri")
        crowd.receive(5)
        ends[0].sendall(b"ght\n")
        crowd.receive(5)
        assert len(crowd.waits) == 1
        ends[1].sendall(b"wrong\n")
        crowd.receive(5)
        ends[2].sendall(b"ping\n")
        crowd.receive(5)
        assert ends[2].recv(10) == b"pong\n"
        ends[2].close()
        crowd.receive(5)
        assert (crowd.wrong, crowd.dropped, crowd.pings) == (1, 1, 1)
        crowd.send(2, b"into the void\n")
        assert crowd.awaited[2] == b""
        crowd.epoll.close()
        for sock in [*ends, *filter(None, crowd.sockets)]:
            sock.close()


def test_idle_verdicts() -> None:
    """The ratio of memory, the difference of CPU time, and what was lost each have their bound."""
    plain = Loaded("bare", 1000.0, 0, 1.0, 1, 1, 0, 1.0)
    quiet = Rested("none", 1.0, 0, 0)

    def judged(each: float, cpu: float, lost: int) -> list[bool]:
        watched = Loaded("watched", each, 0, 1.0, 1, 1, lost, 1.0)
        return [verdict.met for verdict in idle.verdicts(watched, plain, quiet, Rested("30 s", cpu, 0, 0))]

    assert judged(1300.0, 2.99, 0) == [True, True, True]
    assert judged(1301.0, 3.0, 1) == [False, False, False]


@pytest.mark.parametrize("loop", tls_churn.LOOPS)
def test_tls_clients_come_and_go(loop: str) -> None:
    """Two rounds of 20 clients: all have their message echoed, and no descriptor stays."""
    rounds: list[None] = []
    churned = tls_churn.churn(loop, 2, 20, lambda: rounds.append(None))
    assert (churned.failed, churned.said) == (0, "")
    assert churned.left <= 0
    assert len(churned.memory) == len(rounds) == 2


def test_tls_verdicts() -> None:
    """The last round is compared with the fifth."""
    grown = Churned("uvloop", memory=[50, 60, 70, 80, 100, 100, 106])
    steady = Churned("uvloop", memory=[50, 60, 70, 80, 100, 120, 105])
    assert [verdict.met for verdict in tls_churn.verdicts([grown])] == [False, True, True]
    assert [verdict.met for verdict in tls_churn.verdicts([steady])] == [True, True, True]


def test_workers_verdict() -> None:
    """1.7 times the throughput of one worker is enough, and errors are not."""

    def judged(two: float, errors: int) -> bool:
        return workers.verdict(Measure(210, 1000, 1, 1, 0), Measure(210, two, 1, 1, errors)).met

    assert (judged(1700, 0), judged(1690, 0), judged(1800, 1)) == (True, False, False)


def test_two_workers_are_measured() -> None:
    """A second of the real thing: 200 us of CPU time for each message, and something of the server's own."""
    measured = workers.measure_workers(2, 1)
    assert measured.errors == 0
    assert 200 <= measured.cpu_us < 1000


def test_a_missed_target_is_a_failure() -> None:
    """The exit code is that of make: 0 only when every target is met."""
    met, missed = Verdict("a", "1", "1", met=True), Verdict("b", "1", "2", met=False)
    console = Console(quiet=True)
    assert finish(console, [met, met]) == 0
    assert finish(console, [met, missed]) == 1


def test_soak_runs_modules_that_are_there() -> None:
    """Each part names a program of ours, or pytest."""
    modules = idle, idle_http, broadcast, tls_churn, workers
    ours = [*(module.__name__ for module in modules), fuzz.__name__]
    assert [part[0] for part in PARTS.values()] == ["pytest", *ours, *["pytest"] * 7]
