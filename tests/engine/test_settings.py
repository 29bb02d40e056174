"""What can be set, and what cannot."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from forebay.engine.settings import Admission, Heartbeat, Keepalive, Outbound, SlowConsumer, as_heartbeat


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outbound(high=-1), "Outbound high -1: must be at least 0"),
        (lambda: Outbound(low=-1), "Outbound low -1: must be from 0 to high, which is 65536"),
        (lambda: Outbound(high=10, low=11), "Outbound low 11: must be from 0 to high, which is 10"),
        (lambda: Outbound(limit=65535), "Outbound limit 65535: must be at least high, which is 65536, or None"),
        (lambda: Outbound(timeout=0), "Outbound timeout 0: must be more than 0, or None"),
        (lambda: Outbound(policy="drop"), "Outbound policy 'drop': expected one of wait, drop-oldest, close"),
        (lambda: Outbound(policy="close", limit=None), "Outbound policy close: needs a limit"),
        (lambda: Outbound(policy="drop-oldest", limit=None), "Outbound policy drop-oldest: needs a limit"),
        (lambda: Heartbeat(interval=0), "Heartbeat interval 0: must be more than 0"),
        (lambda: Heartbeat(misses=0), "Heartbeat misses 0: must be at least 1"),
        (lambda: Heartbeat(pong=b"x"), "Heartbeat pong: needs is_ping, which says what it answers"),
        (lambda: Admission(per_peer=0), "Admission per_peer 0: must be at least 1, or None"),
        (lambda: Admission(rate=0), "Admission rate 0: must be more than 0, or None"),
        (lambda: Admission(burst=5), "Admission burst 5: must be at least 1, and needs a rate"),
        (lambda: Admission(rate=5, burst=0), "Admission burst 0: must be at least 1, and needs a rate"),
        (lambda: Keepalive(idle=0), "Keepalive idle 0: must be from 1 to 32767"),
        (lambda: Keepalive(probes=40_000), "Keepalive probes 40000: must be from 1 to 32767"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], message: str) -> None:
    """By the name of what is wrong, with what would be right."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_defaults() -> None:
    """They are what the documentation says."""
    outbound = Outbound()
    assert (outbound.high, outbound.resume_at, outbound.policy) == (65536, 16384, SlowConsumer.WAIT)
    assert (Heartbeat().interval, Heartbeat().misses, Heartbeat().ping) == (30.0, 3, None)
    assert Outbound(policy="close") == Outbound(policy=SlowConsumer.CLOSE)


def test_watermarks_may_be_zero() -> None:
    """Then a connection is writable only while nothing waits."""
    assert Outbound(high=0, limit=0).resume_at == 0
    assert Outbound(high=100, low=0).resume_at == 0
    assert Outbound(high=100, low=100).resume_at == 100


def test_a_number_is_short_for_a_heartbeat() -> None:
    """Of that interval; 0 is no interval."""
    assert as_heartbeat(None) is None
    assert as_heartbeat(5) == Heartbeat(interval=5)
    given = Heartbeat(misses=1)
    assert as_heartbeat(given) is given
    with pytest.raises(ValueError, match="interval"):
        as_heartbeat(0)


def test_intervals() -> None:
    """Without pings the misses are silent intervals; with pings, the first silent interval is what sends one."""
    assert Heartbeat(misses=3).intervals == 3
    assert Heartbeat(misses=3, ping=b"?").intervals == 4


def test_keepalive_is_set_on_sockets() -> None:
    """With all three numbers; what is not TCP, or closed, or not there at all, is left alone."""
    keepalive = Keepalive(idle=7, interval=3, probes=2)
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(family) as sock:
            keepalive.apply(sock)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [7, 3, 2]
    keepalive.apply(sock)
    keepalive.apply(None)
    with socket.socket(socket.AF_UNIX) as sock:
        keepalive.apply(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
