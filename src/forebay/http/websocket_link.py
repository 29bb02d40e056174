"""Between the engine's connection and its WebSocket: bytes to the reader of messages, deadlines, heartbeats."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.loop import Cancelled
from forebay.errors import WebSocketError
from forebay.http.websocket_settings import WebSocketSettings
from forebay.wire.websocket import MessageReader

if TYPE_CHECKING:
    from forebay.http.websocket import WebSocket

__all__ = ["Link", "Phase", "SlicingLink"]

_SLICE = 4096  # bytes that are read at once where they may become a thousand times as many


class Phase(IntEnum):
    """How far the closing of a WebSocket is."""

    OPEN = 0
    CLOSING = 1  # we have sent a close frame
    CLOSED = 2  # both sides have, or one never will
    GONE = 3  # so has the connection


class Link(ConnectionHandler):
    """Between a connection, its reader of messages and its WebSocket, which do not know each other."""

    __slots__ = ("_pinged_at", "_reader", "_ws")

    def __init__(self, ws: WebSocket, reader: MessageReader) -> None:
        self._ws = ws
        self._reader = reader
        self._pinged_at = 0.0  # when the ping was sent that nothing came after; 0: there is none

    def resume(self) -> None:
        """Read on."""
        self._ws.conn.resume_reading()

    def on_open(self, conn: Connection) -> None:
        self._ws.opened(conn)

    def on_message(self, conn: Connection, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except WebSocketError as error:
            self._ws.refuse(error)
        except (Exception, Cancelled) as error:
            self._ws.failed(error)

    def on_eof(self, conn: Connection) -> bool:
        self._ws.ended()
        return False

    def on_writable(self, conn: Connection) -> None:
        self._ws.writable_again()

    def on_timeout(self, conn: Connection) -> None:
        """The deadline has come of what we wait for."""
        phase = self._ws.phase
        if phase == Phase.OPEN:
            self._beat(conn, self._ws.settings)
        elif phase == Phase.CLOSING:
            conn.abort(CloseReason.TIMEOUT)
        else:
            conn.close(CloseReason.TIMEOUT)  # the server's part, which it did not do

    def _beat(self, conn: Connection, settings: WebSocketSettings) -> None:
        """Ask a silent peer whether it is there, and cut one that does not answer."""
        interval = settings.ping_interval
        if interval is None:
            return
        if self._ws.paused or not conn.writable:  # we do not listen, or it is its reading that counts: see Outbound
            self._pinged_at = 0.0
            conn.expire_in(interval)
            return
        at = conn.owner.ticker.now
        if self._pinged_at and conn.heard_at < self._pinged_at:
            left = self._pinged_at + settings.ping_timeout - at
            if left > 0:
                conn.expire_in(left)
            else:
                conn.abort(CloseReason.HEARTBEAT)
            return
        left = conn.heard_at + interval - at
        if left > 0:
            self._pinged_at = 0.0
            conn.expire_in(left)
            return
        self._pinged_at = at
        self._ws.ping()
        conn.expire_in(min(interval, settings.ping_timeout))

    def on_drain(self, conn: Connection) -> None:
        self._ws.drain()

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        ws = self._ws
        del self._ws, self._reader  # they know each other, and would wait for the garbage collector
        ws.lost(reason)


class SlicingLink(Link):
    """Where messages come compressed: one chunk from the network may become a thousand times as much, so it is read
    piece by piece, and no further than until the handler, or its inbox, pauses."""

    __slots__ = ("_reading", "_rest")

    def __init__(self, ws: WebSocket, reader: MessageReader) -> None:
        super().__init__(ws, reader)
        self._rest = b""
        self._reading = False

    def on_message(self, conn: Connection, data: bytes) -> None:
        if self._rest or self._ws.paused or len(data) > _SLICE:
            self._rest += data
            self._read(conn)
        else:
            super().on_message(conn, data)

    def resume(self) -> None:
        self._read(self._ws.conn)

    def _read(self, conn: Connection) -> None:
        if self._reading:  # further down in the stack, where it goes on as soon as this returns
            return
        self._reading = True
        try:
            while self._rest and not self._ws.paused:
                piece, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
                super().on_message(conn, piece)
        finally:
            self._reading = False
        if not self._ws.paused:  # it may have been, and may be again, by what was read just now
            conn.resume_reading()
