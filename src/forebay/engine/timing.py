"""When a silent or slow peer is asked whether it is there, and when it is given up: one deadline out of four."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.loop import RESOLUTION
from forebay.engine.settings import Heartbeat

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["UNTIMED", "Pulse", "Screen", "Timing"]


class Pulse:
    """What is remembered of a peer that does not just send one whole message after the other."""

    __slots__ = ("missed", "partial_at", "partial_of", "pinged_at", "used_at")

    def __init__(self) -> None:
        self.partial_at = 0.0  # when the first byte came of a message that is incomplete ...
        self.partial_of = -1  # ... which is the one after so many
        self.pinged_at = 0.0  # when an interval without a message was last noticed
        self.missed = 0  # such intervals in a row
        self.used_at: float | None = None  # when the handler was last given a message, where a Screen keeps some back

    def forgive(self, now: float) -> None:
        """Start anew."""
        self.partial_at = now
        if self.used_at is not None:
            self.used_at = now


@dataclass(frozen=True, slots=True)
class Timing:
    """The timeouts of connections, in seconds; ``None``: no such timeout. They are asked about a connection only when
    its slot of the timer wheel comes, so a message costs one store of the time, whatever is set here.
    """

    idle: float | None = None
    first_byte: float | None = None
    message: float | None = None
    heartbeat: Heartbeat | None = None

    def deadline(self, conn: Connection) -> float:
        """When ``conn`` has to be looked at next."""
        found = inf
        if self.idle is not None:
            found = _used_at(conn) + self.idle
        if self.first_byte is not None and not conn.bytes_in:
            found = min(found, conn.heard_at + self.first_byte)
        if self.heartbeat is not None:
            found = min(found, _last_sign(conn) + self.heartbeat.interval)
        if self.message is not None and (since := conn.partial_since()) is not None:
            found = min(found, since + self.message)
        return found + RESOLUTION  # the times are those of a clock that is up to a tick late

    def overdue(self, conn: Connection, now: float) -> CloseReason | None:
        """Why ``conn`` is to be closed, if it is. A peer whose next heartbeat is due is sent its ping."""
        at = now - RESOLUTION
        since = conn.partial_since() if self.message is not None else None
        if self.message is not None and since is not None and at >= since + self.message:
            return CloseReason.SLOW_MESSAGE
        if self.first_byte is not None and not conn.bytes_in and at >= conn.heard_at + self.first_byte:
            return CloseReason.FIRST_BYTE
        if self.heartbeat is not None and at >= _last_sign(conn) + self.heartbeat.interval:
            if _missed(conn, now) >= self.heartbeat.intervals:
                return CloseReason.HEARTBEAT
            if self.heartbeat.ping is not None:
                conn.write(self.heartbeat.ping)
        if self.idle is not None and at >= _used_at(conn) + self.idle:
            return CloseReason.IDLE
        return None


UNTIMED = Timing()


def _last_sign(conn: Connection) -> float:
    """When the peer last showed that it is alive, or was last noticed to have not."""
    pulse = conn.pulse
    return conn.heard_at if pulse is None else max(conn.heard_at, pulse.pinged_at)


def _missed(conn: Connection, now: float) -> int:
    """Note that one more interval went by without a message; how many in a row that makes."""
    pulse = conn.pulse
    if pulse is None:
        pulse = conn.pulse = Pulse()
    if conn.heard_at >= pulse.pinged_at:  # the same tick of the clock: an answer comes after its ping
        pulse.missed = 0
    pulse.missed += 1
    pulse.pinged_at = now
    return pulse.missed


def _used_at(conn: Connection) -> float:
    """When the last message came that counts for the idle timeout."""
    pulse = conn.pulse
    return conn.heard_at if pulse is None or pulse.used_at is None else pulse.used_at


class Screen(ConnectionHandler):
    """Stands before a handler and keeps heartbeats from it."""

    __slots__ = ("handler", "heartbeat")

    def __init__(self, handler: ConnectionHandler, heartbeat: Heartbeat) -> None:
        self.handler = handler
        self.heartbeat = heartbeat

    def __repr__(self) -> str:
        return f"<Screen of {self.handler!r}>"

    def on_open(self, conn: Connection) -> None:
        conn.pulse = conn.pulse or Pulse()
        conn.pulse.used_at = conn.opened_at
        self.handler.on_open(conn)

    def on_message(self, conn: Connection, data: Any) -> None:
        heartbeat = self.heartbeat
        if heartbeat.is_pong is not None and heartbeat.is_pong(data):
            return
        if heartbeat.is_ping is not None and heartbeat.is_ping(data):
            if heartbeat.pong is not None and conn.writable:  # who does not read what it is sent gets no pongs either
                conn.write(heartbeat.pong)
            return
        if conn.pulse is not None:
            conn.pulse.used_at = conn.heard_at
        self.handler.on_message(conn, data)

    def on_eof(self, conn: Connection) -> bool:
        return self.handler.on_eof(conn)

    def on_writable(self, conn: Connection) -> None:
        self.handler.on_writable(conn)

    def on_timeout(self, conn: Connection) -> None:
        self.handler.on_timeout(conn)

    def on_drain(self, conn: Connection) -> None:
        self.handler.on_drain(conn)

    def on_tick(self, conn: Connection) -> None:
        self.handler.on_tick(conn)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.handler.on_close(conn, reason)
