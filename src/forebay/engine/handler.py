"""What handlers of connections look like in event style, and why connections end."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["CloseReason", "ConnectionHandler"]


class CloseReason(StrEnum):
    """Why a connection was closed."""

    PEER = "peer"  # the peer closed it
    APP = "app"  # the handler did
    IDLE = "idle"  # nothing was received for too long
    TIMEOUT = "timeout"  # the peer took too long over something
    WRITE_STALL = "write-stall"  # the peer did not read
    LIMIT = "limit"  # a limit was reached
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
