"""One TCP connection: the protocol object that the event loop calls, and what handlers hold in their hands."""

from __future__ import annotations

import asyncio
import socket
import struct
from itertools import count
from math import inf
from typing import Any, Protocol, cast

import structlog

from forebay.engine.address import join_host_port
from forebay.engine.ending import Lingering, WriteStall
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.inbox import Inbox
from forebay.engine.loop import RESOLUTION, Ticker, now
from forebay.errors import ConnectionClosed, DeadlineExceeded

__all__ = ["CloseReason", "Connection", "ConnectionHandler", "ConnectionOwner"]

log = structlog.get_logger("forebay.engine")

_numbers = count(1)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ConnectionOwner(Protocol):
    """What a connection needs of whoever accepted or dialled it."""

    ticker: Ticker
    write_high: int
    write_low: int
    write_timeout: float | None

    def opened(self, conn: Connection) -> bool:
        """Whether it may live; else it is closed at once, and its handler never hears of it."""

    def closed(self, conn: Connection) -> None:
        """It is gone, and its handler has been told."""


class Connection(asyncio.Protocol):
    """One TCP connection. Servers and :func:`~forebay.engine.dial` make them; handlers use them.

    ``state`` is free for the handler's own use. Counters: ``bytes_in``, ``bytes_out``, ``messages_in``,
    ``messages_out``; ``writes_dropped`` counts what was written after the close.
    """

    __slots__ = (
        "_eof",
        "_gone",
        "_handler",
        "_idle",
        "_inbox",
        "_on_message",
        "_owner",
        "_paused",
        "_stall",
        "_told",
        "_transport",
        "_waiters",
        "_wheel",
        "_write",
        "bytes_in",
        "bytes_out",
        "close_reason",
        "closing",
        "due_at",
        "expires_at",
        "id",
        "messages_in",
        "messages_out",
        "opened_at",
        "peer",
        "peer_host",
        "state",
        "writable",
        "writes_dropped",
    )

    def __init__(self, owner: ConnectionOwner, handler: ConnectionHandler, idle: float | None, inbox: Inbox | None):
        self.id = next(_numbers)  # unique in this process
        self.peer = "unknown"  # the peer may be gone before we could ask who it is
        self.peer_host = "unknown"
        self.state: Any = None
        self.opened_at = 0.0
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = self.writes_dropped = 0
        self.closing = False  # nothing can be written any more
        self.close_reason: CloseReason | None = None
        self.writable = True  # what waits to be sent is below the high watermark
        self.expires_at = self.due_at = inf  # see policy.timers.Timed
        self._owner = owner
        self._wheel = owner.ticker.wheel
        self._handler = handler
        self._on_message = handler.on_message
        self._inbox = inbox
        self._idle = idle + RESOLUTION if idle else 0.0  # what each message adds to the wheel's clock
        self._paused = self._eof = self._gone = self._told = False
        self._stall: WriteStall | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        how = self.close_reason or ("closing" if self.closing else "open")
        return f"<Connection {self.id} {self.peer} {how} in={self.bytes_in} out={self.bytes_out}>"

    @property
    def local(self) -> str:
        """Our end, ``host:port``."""
        return _name(self._transport.get_extra_info("sockname"))

    # What handlers call

    def write(self, message: Any) -> None:
        """Send ``message`` without waiting; after the close it is dropped, and counted.

        What the network does not take is kept in memory: writers of much look at :attr:`writable`, or use :meth:`send`.

        :raises ValueError: the framing cannot express the message.
        """
        if self.closing:
            self.writes_dropped += 1
            return
        self.messages_out += 1
        self.bytes_out += len(message)
        self._write(message)

    async def send(self, message: Any) -> None:
        """Send ``message``, then wait while the peer is too slow to take what was sent.

        :raises ConnectionClosed: the connection is closed, or was while waiting.
        """
        if self.closing:
            raise self._closed_error()
        self.write(message)
        if not self.writable:
            await self.drained()

    async def drained(self) -> None:
        """Wait until the connection is :attr:`writable`. A peer that takes nothing at all ends the wait by its stall.

        :raises ConnectionClosed: the connection is closed, or was while waiting.
        """
        while not self.closing:
            if self.writable:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        raise self._closed_error()

    async def receive(self, timeout: float | None = None) -> Any:
        """The next message. For coroutine handlers.

        :param timeout: seconds to wait for it; ``None``: only the server's idle timeout counts.
        :raises ConnectionClosed: none will come: the peer has ended its side, or the server drains.
        :raises FramingError: the peer sent bytes that are not a message.
        :raises DeadlineExceeded: it did not come in time.
        """
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages:
            try:
                async with asyncio.timeout(timeout):
                    found = await inbox.wait()
            except TimeoutError:
                raise DeadlineExceeded(f"{self.peer} sent no message within {timeout} s") from None
            if not found:
                raise self._closed_error()
        return self._take(inbox)

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages and not await inbox.wait():
            raise StopAsyncIteration
        return self._take(inbox)

    def write_buffer_size(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Take nothing more from the network, until :meth:`resume_reading`; the peer notices by and by. Idempotent."""
        if not self._paused:
            self._paused = True
            if not self._eof:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`. Idempotent."""
        if self._paused:
            self._paused = False
            if self._idle:
                self.expires_at = self._wheel.now + self._idle
            if not self._eof and not self.closing:
                self._transport.resume_reading()

    def expire_in(self, seconds: float | None) -> None:
        """Call ``on_timeout`` in ``seconds``, at most 200 ms later and never earlier; ``None``: never.

        A connection has one such deadline: each call replaces the one before, and the first one replaces the server's
        idle timeout for this connection. Cheap enough for every request.
        """
        self._idle = 0.0
        if seconds is None:
            self.expires_at = inf
            return
        expires_at = self.expires_at = self._wheel.now + seconds + RESOLUTION
        if expires_at < self.due_at and not self.closing:
            self._owner.ticker.arm(self, seconds)

    def close(self, reason: CloseReason = CloseReason.APP, *, linger: float = 0.0) -> None:
        """Send what was written, then close. A peer that takes nothing of it for the write timeout is cut.

        :param linger: seconds to go on reading, and throwing away, what the peer still sends. Closing with bytes unread
            makes the kernel send a reset, which can overtake our last words.
        """
        if self.closing:
            return
        self.closing = True
        self.close_reason = reason
        if linger and not self._eof:
            Lingering(self, self._transport, self._owner.ticker, linger)
        else:
            self._transport.close()
        if self._transport.get_write_buffer_size():
            self._watch_writes()
        self._wake()

    def abort(self, reason: CloseReason = CloseReason.APP) -> None:
        """Cut the connection now. What was not sent is lost, and the peer sees a reset instead of an orderly end."""
        if self._gone:
            return
        self.closing = True
        if self.close_reason is None:
            self.close_reason = reason
        sock = self._transport.get_extra_info("socket")
        try:
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:  # it is closed already
            pass
        self._transport.abort()
        self._wake()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # as it is for every stream protocol
        self._write = self._transport.write
        peername = transport.get_extra_info("peername")
        if peername:
            self.peer_host = peername[0]
            self.peer = _name(peername)
        self.opened_at = now()
        owner = self._owner
        if not owner.opened(self):
            self._gone = self.closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(owner.write_high, owner.write_low)
        if self._idle:
            owner.ticker.arm(self, self._idle - RESOLUTION)
        try:
            self._handler.on_open(self)
        except Exception as error:
            self.failed(error)
        if self._paused:  # the loops start reading only after this call
            asyncio.get_running_loop().call_soon(self._pause_again)

    def _pause_again(self) -> None:
        if self._paused and not self._eof:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.messages_in += 1
        self.bytes_in += len(data)
        if self._idle:
            self.expires_at = self._wheel.now + self._idle
        try:
            self._on_message(self, data)
        except Exception as error:
            self.failed(error)

    def eof_received(self) -> bool:
        """Called by the event loop."""
        self._eof = True
        try:
            if not self._handler.on_eof(self):
                self.close(CloseReason.PEER)
        except Exception as error:
            self.failed(error)
        return True  # it is closed above, if at all

    def pause_writing(self) -> None:
        """Called by the event loop: above the high watermark."""
        self.writable = False
        self._watch_writes()

    def resume_writing(self) -> None:
        """Called by the event loop: below the low watermark again."""
        self.writable = True
        if self.closing:
            return
        if self._stall is not None:
            self._stall.expires_at = inf
        self._wake()
        try:
            self._handler.on_writable(self)
        except Exception as error:
            self.failed(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._gone:
            return
        self._gone = self.closing = True
        if self.close_reason is None:
            self.close_reason = CloseReason.PEER if exc is None else CloseReason.RESET
        self._wheel.discard(self)
        if self._stall is not None:
            self._wheel.discard(self._stall)
        self._wake()
        try:
            self._handler.on_close(self, self.close_reason)
        except Exception:
            log.exception("handler failed", peer=self.peer, handler=type(self._handler).__name__)
        self._owner.closed(self)

    def on_expired(self) -> None:
        """Called by the timer wheel."""
        if self.closing:
            return
        if not (self._idle and self._paused and not self._eof):  # we do not listen: the peer is not to blame
            try:
                self._handler.on_timeout(self)
            except Exception as error:
                self.failed(error)
        if self._idle and not self.closing:
            self._owner.ticker.arm(self, self._idle - RESOLUTION)

    # What is behind them

    def failed(self, error: Exception) -> None:
        """The handler raised ``error``: log it, close the connection."""
        log.error("handler failed", peer=self.peer, handler=type(self._handler).__name__, exc_info=error)
        self.close(CloseReason.ERROR)

    def told(self) -> bool:
        """Whether a coroutine that waited for this connection was woken because it closed."""
        return self._told

    def start_tick(self) -> None:
        """Run the handler's ``on_tick``. Called by the server."""
        try:
            self._handler.on_tick(self)
        except Exception as error:
            self.failed(error)

    def start_drain(self) -> None:
        """Run the handler's ``on_drain``. Called by the server."""
        if self.closing:
            return
        try:
            self._handler.on_drain(self)
        except Exception as error:
            self.failed(error)

    def _watch_writes(self) -> None:
        seconds = self._owner.write_timeout
        if seconds is None:
            return
        stall = self._stall
        if stall is None:
            stall = self._stall = WriteStall(self)
        stall.sent = self.bytes_out - self._transport.get_write_buffer_size()
        stall.expires_at = self._wheel.now + seconds + RESOLUTION
        if stall.expires_at < stall.due_at:
            self._owner.ticker.arm(stall, seconds)

    def write_stalled(self, sent: int) -> None:
        """The write timeout is over: cut the peer, unless it took something of what was sent since."""
        waiting = self._transport.get_write_buffer_size()
        if not waiting:
            return
        if self.bytes_out - waiting > sent:
            self._watch_writes()
            return
        self.close_reason = CloseReason.WRITE_STALL
        self.abort(CloseReason.WRITE_STALL)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
                self._told = self._told or self.closing

    def _closed_error(self) -> ConnectionClosed:
        why = self.close_reason or (CloseReason.PEER if self._eof else CloseReason.DRAIN)
        return ConnectionClosed(f"the connection with {self.peer} is closed ({why})")

    def _no_inbox(self) -> Inbox:
        raise RuntimeError("only coroutine handlers receive; an event-style handler gets on_message")

    def _take(self, inbox: Inbox) -> Any:
        message = inbox.take()
        if self._paused and inbox.low and not inbox.ended:
            self.resume_reading()
        return message


def _name(sockname: tuple[Any, ...] | None) -> str:
    return join_host_port(sockname[0], sockname[1]) if sockname else "unknown"
