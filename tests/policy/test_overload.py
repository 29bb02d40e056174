"""What is left of a server's goodput under three times the load that it can take."""

from __future__ import annotations

import pytest

from benchmarks.overload import HELD_OUT_LOADS, KEPT, PROTECTED, Server, drawn, kept, simulate
from forebay.policy.priority import Priority

SERVERS = {
    "small": Server(knee=8),
    "middle": Server(),
    "large": Server(knee=100),
    "fast": Server(service=0.01, timeout=0.1),
    "slow": Server(knee=16, service=0.3, timeout=2.0),
    "flat": Server(thrash=1.0),
    "thrashing": Server(thrash=2.0),
}


def seconds(server: Server) -> float:
    """Of each load: long enough for a limit to be found, and for the simulation to be short."""
    return min(20.0, 8000 / server.capacity)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS.keys())
def test_goodput_stays(server: Server, seed: int) -> None:
    """85% of the peak or more, where nothing would be left without; and the urgent requests do not notice."""
    levels = simulate(server, PROTECTED, loads=HELD_OUT_LOADS, seconds=seconds(server), seed=seed)
    peak = max(level.goodput for level in levels)
    assert peak >= 0.7
    assert levels[-1].goodput >= KEPT * peak
    assert levels[-1].served(Priority.HIGH) >= 0.95
    assert levels[-1].served(Priority.HIGH) > levels[-1].served(Priority.NORMAL) > levels[-1].served(Priority.LOW)


@pytest.mark.parametrize("seed", range(9001, 9009))
def test_goodput_stays_for_servers_that_nothing_was_tuned_on(seed: int) -> None:
    """85% of the peak or more, with other knees, times, timeouts and drifts, for seeds that were not chosen."""
    server, period = drawn(seed)
    assert kept(simulate(server, PROTECTED, loads=HELD_OUT_LOADS, seconds=period, seed=seed)) >= KEPT


def test_without_it_the_server_collapses() -> None:
    """So the model has a knee: a test of what protects it can fail."""
    levels = simulate(Server(), None, loads=HELD_OUT_LOADS, seconds=5.0)
    assert levels[0].goodput >= 0.7
    assert levels[-1].goodput <= 0.1
