"""What connections call, handlers in event style and owners, and why connections end."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from forebay.engine.connection import Connection
    from forebay.engine.loop import Ticker
    from forebay.engine.settings import Outbound
    from forebay.engine.timing import Timing

__all__ = ["CloseReason", "ConnectionHandler", "ConnectionOwner"]


class CloseReason(StrEnum):
    """Why a connection was closed."""

    PEER = "peer"  # the peer closed it
    APP = "app"  # the handler did
    IDLE = "idle"  # no message came for too long
    FIRST_BYTE = "first-byte"  # it opened the connection and said nothing
    SLOW_MESSAGE = "slow-message"  # it began a message and did not get to its end
    HEARTBEAT = "heartbeat"  # it missed too many heartbeats
    TIMEOUT = "timeout"  # the peer took too long over something
    WRITE_STALL = "write-stall"  # the peer took nothing of what was sent
    SLOW_CONSUMER = "slow-consumer"  # it took so little that too much was waiting for it
    MEMORY = "memory"  # all buffers together were too large, and this connection's were the largest
    LIMIT = "limit"  # a limit was reached
    PROXY_HEADER = "proxy-header"  # a trusted proxy sent no PROXY header, or a broken one
    HANDSHAKE = "handshake"  # TLS did not come about
    HANDSHAKE_TIMEOUT = "handshake-timeout"  # ... in time
    EXPIRED = "expired"  # a datagram session: its peer sent nothing for too long
    DRAIN = "drain"  # the server drains
    RESET = "reset"  # the peer or the network broke it
    FRAMING = "framing"  # the peer sent bytes that are not a message
    ERROR = "error"  # the handler failed
    STOPPED = "stopped"  # the server stopped


class ConnectionHandler:
    """Event style: what happens on a connection. Every method may be left out.

    They are called on the loop and must not block. What one raises is logged and closes the connection.
    """

    __slots__ = ()

    def on_open(self, conn: Connection) -> None:
        """The connection is there. First of all calls."""

    def on_message(self, conn: Connection, data: Any) -> None:
        """A message of the server's framing; without framing, bytes as they arrived.

        One chunk from the network may hold many messages: some still come after :meth:`Connection.pause_reading`.
        """

    def on_eof(self, conn: Connection) -> bool:
        """The peer sends nothing more. True: it may still be written to; else it is closed, flushed."""
        return False

    def on_writable(self, conn: Connection) -> None:
        """So much of what was written has gone out that more may be written (``conn.writable`` had been False)."""

    def on_timeout(self, conn: Connection) -> None:
        """The idle timeout, or what was given to :meth:`Connection.expire_in`, is over."""
        conn.close(CloseReason.IDLE)

    def on_drain(self, conn: Connection) -> None:
        """The server drains: finish, then close the connection."""
        conn.close(CloseReason.DRAIN)

    def on_tick(self, conn: Connection) -> None:
        """Called for every connection each ``tick`` seconds, where the server was given that."""

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        """The connection is gone. Called exactly once, and last."""


class ConnectionOwner(Protocol):
    """What a connection needs of whoever accepted or dialled it."""

    ticker: Ticker
    timing: Timing
    outbound: Outbound

    def opened(self, conn: Connection) -> bool:
        """Whether it may live; else it is closed at once, and its handler never hears of it."""

    def closed(self, conn: Connection) -> None:
        """It is gone, and its handler has been told."""

    def buffered(self, size: int) -> None:
        """So many bytes more are kept for a slow peer."""

    def dropped(self) -> None:
        """A message to a slow peer was dropped."""
