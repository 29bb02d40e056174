"""Two ways a connection's end can go wrong: the peer does not read what it is sent, or sends what is not read."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from forebay.engine.loop import Ticker

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["Lingering", "WriteStall"]


class WriteStall:
    """The deadline of a peer that does not take what is sent to it."""

    __slots__ = ("conn", "due_at", "expires_at", "sent")

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.sent = 0  # bytes the peer had taken when the deadline was set
        self.expires_at = self.due_at = inf

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`."""
        self.conn.write_stalled(self.sent)


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
        self.ticker.wheel.discard(self)
        self.conn.connection_lost(None)
