"""What servers and diallers may be told about their connections, in small frozen groups."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Admission", "Heartbeat", "Keepalive", "Outbound", "SlowConsumer", "as_heartbeat"]


class SlowConsumer(StrEnum):
    """What is done about a peer that reads more slowly than it is written to."""

    WAIT = "wait"
    """``send`` waits while more than ``high`` bytes are queued. Who writes on without waiting is stopped at ``limit``:
    the connection is closed."""

    DROP_OLDEST = "drop-oldest"
    """``send`` never waits. Past ``limit`` the oldest messages that did not begin to leave are dropped, and counted."""

    CLOSE = "close"
    """``send`` never waits. Past ``limit`` the connection is closed."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """How much may wait to be sent on one connection, and what happens then.

    :param high: bytes waiting from which on a connection is not ``writable``, and ``send`` waits.
    :param low: bytes below which it is again; a quarter of ``high`` when not given.
    :param policy: what happens to a slow consumer; see :class:`SlowConsumer`.
    :param limit: bytes waiting from which on the policy is applied. A message is taken whole while less than this
        waits, so at most ``limit`` and one message are kept. ``None``: no limit, for writers that look at ``writable``.
    :param timeout: seconds after which a peer is cut that takes nothing of what waits for it, while that is more than
        ``high`` or the connection is closing; ``None``: never. Smaller amounts are left to idle timeout and heartbeats.

    :raises ValueError: a parameter makes no sense.
    """

    high: int = 64 * 1024
    low: int | None = None
    policy: SlowConsumer | str = SlowConsumer.WAIT
    limit: int | None = 16 * 1024 * 1024
    timeout: float | None = 30.0

    def __post_init__(self) -> None:
        if self.high < 0:
            raise ValueError(f"Outbound high {self.high}: must be at least 0")
        if self.low is None:
            object.__setattr__(self, "low", self.high // 4)
        if not 0 <= self.resume_at <= self.high:
            raise ValueError(f"Outbound low {self.low}: must be from 0 to high, which is {self.high}")
        if self.limit is not None and self.limit < self.high:
            raise ValueError(f"Outbound limit {self.limit}: must be at least high, which is {self.high}, or None")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"Outbound timeout {self.timeout}: must be more than 0, or None")
        try:
            object.__setattr__(self, "policy", SlowConsumer(self.policy))
        except ValueError:
            valid = ", ".join(SlowConsumer)
            raise ValueError(f"Outbound policy {self.policy!r}: expected one of {valid}") from None
        if self.limit is None and self.policy is not SlowConsumer.WAIT:
            raise ValueError(f"Outbound policy {self.policy}: needs a limit")

    @property
    def resume_at(self) -> int:
        """``low``, as it was given or came about."""
        return self.low or 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How a peer that is silent is told from one that is gone.

    A peer is alive while messages come. After each silent ``interval`` it is sent ``ping``, if there is one; once
    ``misses`` pings have stayed unanswered for an ``interval`` each, the connection is closed. Without a ping we only
    listen: the connection is closed after ``misses`` silent intervals.

    :param interval: seconds.
    :param misses: how many in a row are forgiven before the close; at least 1.
    :param ping: a message of the connection's framing; ``None``: none is sent.
    :param is_pong: recognises messages that only show that the peer is alive: they are not given to the handler, and do
        not count for the idle timeout. ``None``: every message goes to the handler.
    :param is_ping: recognises the peer's pings: they are answered with ``pong``, and treated like pongs otherwise.
    :param pong: the answer; ``None``: there is none.

    :raises ValueError: a parameter makes no sense.
    """

    interval: float = 30.0
    misses: int = 3
    ping: Any = None
    is_pong: Callable[[Any], bool] | None = None
    is_ping: Callable[[Any], bool] | None = None
    pong: Any = None

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError(f"Heartbeat interval {self.interval}: must be more than 0")
        if self.misses < 1:
            raise ValueError(f"Heartbeat misses {self.misses}: must be at least 1")
        if self.pong is not None and self.is_ping is None:
            raise ValueError("Heartbeat pong: needs is_ping, which says what it answers")

    @property
    def intervals(self) -> int:
        """Silent intervals after which the peer is given up."""
        return self.misses if self.ping is None else self.misses + 1


def as_heartbeat(given: float | Heartbeat | None) -> Heartbeat | None:
    """``30`` is short for ``Heartbeat(interval=30)``."""
    return given if given is None or isinstance(given, Heartbeat) else Heartbeat(interval=given)


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is let in, beside ``max_connections``. Who is not is closed as soon as it is accepted, and counted.

    :param per_peer: connections at once from one address; ``None``: no bound. Peers on a UNIX socket are not bounded.
    :param rate: connections accepted per second; ``None``: no bound.
    :param burst: how many may come at once after a quiet time; a second's worth when not given.

    :raises ValueError: a parameter makes no sense.
    """

    per_peer: int | None = None
    rate: float | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        if self.per_peer is not None and self.per_peer < 1:
            raise ValueError(f"Admission per_peer {self.per_peer}: must be at least 1, or None")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"Admission rate {self.rate}: must be more than 0, or None")
        if self.burst is not None and (self.rate is None or self.burst < 1):
            raise ValueError(f"Admission burst {self.burst}: must be at least 1, and needs a rate")


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalive (RFC 9293 section 3.8.4): the kernel asks a silent peer whether it is there. It costs the program
    nothing, and finds hosts that are gone, but not programs that hang; for those see :class:`Heartbeat`.

    :param idle: seconds of silence before the first probe.
    :param interval: seconds between probes.
    :param probes: unanswered ones after which the connection is reset.

    :raises ValueError: a parameter makes no sense.
    """

    idle: int = 60
    interval: int = 15
    probes: int = 4

    def __post_init__(self) -> None:
        for name, value in (("idle", self.idle), ("interval", self.interval), ("probes", self.probes)):
            if not 1 <= value <= 32767:
                raise ValueError(f"Keepalive {name} {value}: must be from 1 to 32767")

    def apply(self, sock: socket.socket | None) -> None:
        """Set it on a socket; on one that is not TCP, or is closed by now, nothing happens."""
        if sock is None or sock.family == socket.AF_UNIX:
            return
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, self.idle)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, self.interval)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, self.probes)
        except OSError:
            return
