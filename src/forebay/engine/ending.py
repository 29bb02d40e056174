"""The last moments of a connection: cut off, or while its peer may still be sending."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from math import inf
from typing import TYPE_CHECKING

from forebay.engine.loop import Ticker

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["Leaving", "Lingering", "reset", "was_reset"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: on, for no time at all


def reset(transport: asyncio.Transport) -> None:
    """Close the transport at once; its peer sees a reset instead of an orderly end."""
    sock = transport.get_extra_info("socket")
    try:
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:  # it is closed already
        pass
    transport.abort()


def was_reset(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer's system has said that nobody is there any more. The loops do not look for that once the peer
    has ended its side of the connection."""
    sock = transport.get_extra_info("socket")
    if sock is None:  # a transport without a socket has to know; loops' own have one until they are closed
        return bool(transport.get_extra_info("forebay_reset", True))
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # poll(2): POLLERR and POLLHUP are always told
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


class Leaving(asyncio.Protocol):
    """Stands in for a connection that closes once it has sent a file: what still comes is thrown away."""

    __slots__ = ("conn",)

    def __init__(self, conn: Connection, transport: asyncio.Transport) -> None:
        self.conn = conn
        transport.set_protocol(self)
        if not transport.is_reading():
            transport.resume_reading()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self.conn.pause_writing()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self.conn.resume_writing()

    def eof_received(self) -> bool:
        """Called by the event loop."""
        return self.conn.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.conn.connection_lost(exc)


class Lingering(asyncio.Protocol):
    """Stands in for a connection that has said its last words: reads on, throws it away, and closes in the end."""

    __slots__ = ("conn", "due_at", "expires_at", "ticker", "transport")

    def __init__(self, conn: Connection, transport: asyncio.Transport, ticker: Ticker, seconds: float) -> None:
        self.conn = conn
        self.transport = transport
        self.ticker = ticker
        self.expires_at = self.due_at = inf
        ticker.arm(self, seconds)
        transport.set_protocol(self)
        if not transport.is_reading():
            transport.resume_reading()
        transport.write_eof()

    def eof_received(self) -> bool:
        """Called by the event loop: the peer has heard us, or does not care. Close."""
        return False

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.ticker.discard(self)
        self.conn.connection_lost(None)
