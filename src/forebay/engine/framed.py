"""Connections whose bytes are messages of a framing."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import structlog

from forebay.engine.connection import Connection
from forebay.engine.handler import CloseReason, ConnectionHandler, ConnectionOwner
from forebay.engine.inbox import Inbox
from forebay.engine.timing import Pulse
from forebay.errors import FramingError
from forebay.wire.framing import Framing

__all__ = ["LAST_WORDS", "FramedConnection", "make_connection"]

log = structlog.get_logger("forebay.engine")

LAST_WORDS = 1.0
"""Seconds a peer that sent nonsense has to read what it was told before the close."""


class FramedConnection(Connection):
    """A connection whose bytes are cut into messages."""

    __slots__ = ("_decoder", "_framing")

    def __init__(self, owner: ConnectionOwner, handler: ConnectionHandler, inbox: Inbox | None, framing: Framing):
        super().__init__(owner, handler, inbox)
        self._framing = framing
        self._decoder = framing.decoder()

    def write(self, message: Any) -> None:
        """See :meth:`Connection.write`."""
        if self.closing:
            self.writes_dropped += 1
            return
        data = self._framing.encode(message)
        self.messages_out += 1
        self.bytes_out += len(data)
        self.put(data)

    def write_soon(self, message: Any) -> None:
        """See :meth:`Connection.write_soon`."""
        super().write_soon(self._framing.encode(message))

    def send(self, message: Any) -> Awaitable[None]:
        """See :meth:`Connection.send`."""
        if self.closing:
            raise self.closed_error()
        if not self.writable or self._corked is not None:
            return super().send(message)
        data = self._framing.encode(message)  # the rest of write, in place: this is what most messages take
        self.messages_out += 1
        self.bytes_out += len(data)
        self.transport.write(data)
        ticker = self._ticker
        ticker.credit -= len(data)
        return ticker.done if self.writable and ticker.credit >= 0 else self._room()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.bytes_in += len(data)
        try:
            decoder = self._decoder
            messages = decoder.feed(data)
            if len(messages) == 1:
                self.heard_at = self._ticker.now
                self.messages_in += 1
                self._handler.on_message(self, messages[0])
            elif messages:
                self._deliver(messages)
            if decoder.pending:
                self._begun()
            if decoder.error is not None:
                raise decoder.error
        except FramingError as error:
            self._broken(error)
        except Exception as error:
            self.failed(error)

    def _deliver(self, messages: list[Any]) -> None:
        """Hand several messages over; what is written meanwhile leaves as one write."""
        self.heard_at = self._ticker.now
        if self._corked is None:
            self._corked = []
        try:
            for message in messages:
                if self.closing:
                    break
                self.messages_in += 1
                self._handler.on_message(self, message)
        finally:
            self.uncork()

    def _begun(self) -> None:
        """Bytes are left of a message: it has to be complete in time, however slowly the next ones come."""
        if self.owner.timing.message is None or self._deadline is not None or self.closing:
            return
        if self.pulse is None:
            self.pulse = Pulse()
        if self.pulse.partial_of != self.messages_in:
            self.pulse.partial_of = self.messages_in
            self.pulse.partial_at = self._ticker.now
            if self.expires_at < self.due_at:
                self._ticker.hold(self)

    def partial_since(self) -> float | None:
        """See :meth:`Connection.partial_since`."""
        if not self._decoder.pending:
            return None
        if self.pulse is not None and self.pulse.partial_of == self.messages_in:
            return self.pulse.partial_at
        return self.heard_at

    def buffer_size(self) -> int:
        """See :meth:`Connection.buffer_size`."""
        return super().buffer_size() + self._decoder.pending

    def eof_received(self) -> bool:
        """Called by the event loop."""
        if not self.closing:
            try:
                self._decoder.eof()
            except FramingError as error:
                self._eof = True
                self._broken(error)
                return True
        return super().eof_received()

    def _broken(self, error: FramingError) -> None:
        """The peer does not speak our framing. A coroutine handler gets the error; else the connection is closed."""
        log.debug("framing broken", peer=self.peer, reason=str(error))
        if self._inbox is None:
            self.close(CloseReason.FRAMING, linger=LAST_WORDS)
        else:
            self._inbox.end(error)
            self.pause_reading()


def make_connection(
    owner: ConnectionOwner,
    handler: ConnectionHandler,
    *,
    framing: Framing | None = None,
    inbox: Inbox | None = None,
) -> Connection:
    """The protocol object for a new connection."""
    if framing is None:
        return Connection(owner, handler, inbox)
    return FramedConnection(owner, handler, inbox, framing)
