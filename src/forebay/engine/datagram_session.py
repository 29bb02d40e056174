"""Sessions of datagrams: what one peer sends to one socket, until it has been silent for too long."""

from __future__ import annotations

import asyncio
from itertools import count
from math import inf
from typing import Any, Protocol

import structlog

from forebay.engine.address import join_host_port
from forebay.engine.datagram_handler import Backlog, DatagramHandler
from forebay.engine.ends import host_of
from forebay.engine.handler import CloseReason
from forebay.engine.inbox import Inbox
from forebay.engine.loop import RESOLUTION, Ticker, now
from forebay.errors import ConnectionClosed, DeadlineExceeded, ForebayError

__all__ = ["DatagramSession", "SessionEndpoint"]

log = structlog.get_logger("forebay.engine")

_numbers = count(1)


class SessionEndpoint(Protocol):
    """What a session needs of the socket it lives on."""

    ticker: Ticker
    backlog: Backlog
    blocked: bool

    @property
    def local(self) -> str:
        """Our end, ``host:port``."""

    def send(self, data: Any, address: Any) -> bool:
        """Send one datagram, now or from the send queue. False: it was dropped, and counted."""

    def await_room(self, session: DatagramSession) -> None:
        """Call ``session.wake()`` when the send queue is empty."""

    def queue_size(self) -> int:
        """Bytes that wait in the send queue."""

    def log_failure(self, peer: str, handler: str, error: Exception) -> None:
        """Say that a handler raised ``error``, unless that was said within the last second."""

    def lost(self, session: DatagramSession, reason: str) -> None:
        """A datagram of ``session`` was received and dropped: count it."""

    def closing(self, session: DatagramSession) -> None:
        """The session ends: its peer's next datagram is no longer its own."""

    def closed(self, session: DatagramSession) -> None:
        """It is gone, and its handler has been told."""


class DatagramSession:
    """The datagrams exchanged with one peer. Servers and :func:`dial_datagram` make them; handlers use them.

    It has the names of a :class:`~forebay.engine.connection.Connection` for all that means the same. Nothing of it is
    on the wire: closing it tells the peer nothing, and a datagram that comes later opens another session.

    ``state`` is free for the handler's own use; ``address`` is the peer's, as sockets want it. Counters: ``bytes_in``,
    ``bytes_out``, ``messages_in``, ``messages_out``; ``messages_dropped`` counts what was received and did not get to a
    coroutine handler, ``writes_dropped`` what was written and not sent.
    """

    __slots__ = (
        "_endpoint",
        "_handler",
        "_idle",
        "_inbox",
        "_on_message",
        "_told",
        "_waiters",
        "_wheel",
        "address",
        "bytes_in",
        "bytes_out",
        "close_reason",
        "closing",
        "due_at",
        "expires_at",
        "id",
        "messages_dropped",
        "messages_in",
        "messages_out",
        "opened_at",
        "state",
        "writes_dropped",
    )

    def __init__(
        self, endpoint: SessionEndpoint, address: Any, handler: DatagramHandler, inbox: Inbox | None, idle: float | None
    ) -> None:
        self.id = next(_numbers)  # unique among the sessions of this process
        self.state: Any = None
        self.opened_at = now()
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = 0
        self.messages_dropped = self.writes_dropped = 0
        self.closing = False  # nothing can be written any more
        self.close_reason: CloseReason | None = None
        self.expires_at = self.due_at = inf  # see policy.timers.Timed
        self.address = address
        self._endpoint = endpoint
        self._wheel = endpoint.ticker
        self._handler = handler
        self._on_message = handler.on_message
        self._inbox = inbox
        self._idle = idle + RESOLUTION if idle else 0.0  # what each datagram adds to the wheel's clock
        self._told = False
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        how = self.close_reason or "open"
        return f"<DatagramSession {self.id} {self.peer} {how} in={self.messages_in} out={self.messages_out}>"

    @property
    def peer(self) -> str:
        """The other end, ``host:port``. Whoever sends can claim to be anybody; that answers arrive proves more."""
        return join_host_port(self.peer_host, self.address[1])

    @property
    def peer_host(self) -> str:
        """The other end's address without its port."""
        return host_of(self.address)

    @property
    def local(self) -> str:
        """Our end, ``host:port``; the host is ``0.0.0.0`` or ``::`` where the server is bound to every address."""
        return self._endpoint.local

    # What handlers call

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one datagram without waiting; an empty one is legal.

        It is dropped, and counted, after the close, when too much waits to be sent already, and when the system cannot
        send to this peer. That it was sent does not mean that it arrives.

        :raises ValueError: it is longer than a datagram can be (65,507 bytes over IPv4, 65,527 over IPv6).
        """
        if not self.closing and self._endpoint.send(data, self.address):
            self.messages_out += 1
            self.bytes_out += len(data)
        else:
            self.writes_dropped += 1

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send one datagram; wait for what waits to be sent already, instead of dropping this one.

        :raises ConnectionClosed: the session is closed, or was while waiting.
        :raises ValueError: see :meth:`write`.
        """
        if self.closing:
            raise self._closed_error()
        if self._endpoint.blocked:
            await self.drained()
        self.write(data)

    @property
    def writable(self) -> bool:
        """Whether what is written leaves at once: nothing waits in the socket's send queue."""
        return not self._endpoint.blocked

    async def drained(self) -> None:
        """Wait until the session is :attr:`writable`. The socket and its queue are shared by all sessions.

        :raises ConnectionClosed: the session is closed, or was while waiting.
        """
        while not self.closing:
            if not self._endpoint.blocked:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._endpoint.await_room(self)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        raise self._closed_error()

    def write_buffer_size(self) -> int:
        """Bytes in the socket's send queue, those of other sessions included."""
        return self._endpoint.queue_size()

    async def receive(self, timeout: float | None = None) -> bytes:
        """The next datagram. For coroutine handlers, and sessions dialled without a handler.

        :param timeout: seconds to wait for it; ``None``: only the session's own timeout counts.
        :raises ConnectionClosed: none will come: the session is closed, or the server drains.
        :raises ConnectFailed: dialled sessions only: nobody has ever answered, and the peer's host refuses datagrams.
        :raises DeadlineExceeded: it did not come in time.
        """
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages:
            try:
                async with asyncio.timeout(timeout):
                    found = await inbox.wait()
            except TimeoutError:
                raise DeadlineExceeded(f"{self.peer} sent no datagram within {timeout} s") from None
            if not found:
                raise self._closed_error()
        return self._take(inbox)

    def __aiter__(self) -> DatagramSession:
        return self

    async def __anext__(self) -> bytes:
        inbox = self._inbox or self._no_inbox()
        if not inbox.messages and not await inbox.wait():
            raise StopAsyncIteration
        return self._take(inbox)

    def expire_in(self, seconds: float | None) -> None:
        """Call ``on_timeout`` in ``seconds``, at most 200 ms later and never earlier; ``None``: never.

        A session has one such deadline: each call replaces the one before, and the first one replaces the server's
        ``session_timeout`` for this session. Cheap enough for every datagram.
        """
        self._idle = 0.0
        if seconds is None:
            self.expires_at = inf
        elif not self.closing:
            expires_at = now() + seconds + RESOLUTION
            if expires_at < self.due_at:
                self._endpoint.ticker.arm(self, seconds)
            else:
                self.expires_at = expires_at

    def close(self, reason: CloseReason = CloseReason.APP) -> None:
        """End the session. What was written is still sent; ``on_close`` is called soon."""
        if self.closing:
            return
        self.closing = True
        self.close_reason = reason
        self._wheel.discard(self)
        self._endpoint.closing(self)
        self.wake()
        asyncio.get_running_loop().call_soon(self._closed)

    def abort(self, reason: CloseReason = CloseReason.APP) -> None:
        """The same as :meth:`close`: there is no connection to cut."""
        self.close(reason)

    # What the socket's side calls

    def open(self) -> None:
        """Tell the handler, start the clock."""
        if self._idle:
            self._endpoint.ticker.arm(self, self._idle - RESOLUTION)
        try:
            self._handler.on_open(self)
        except Exception as error:
            self.failed(error)

    def received(self, data: bytes) -> None:
        """A datagram came from the peer."""
        self.messages_in += 1
        self.bytes_in += len(data)
        if self._idle:
            self.expires_at = self._wheel.now + self._idle
        try:
            self._on_message(self, data)
        except Exception as error:
            self.failed(error)

    def broken(self, error: ForebayError) -> None:
        """Nothing more will come: end, with ``error`` for whoever receives."""
        if self._inbox is not None:
            self._inbox.end(error)
        self.close(CloseReason.RESET)

    def drop(self, reason: str) -> None:
        """A datagram that was received does not get to the handler. Count it."""
        self.messages_dropped += 1
        self._endpoint.lost(self, reason)

    def failed(self, error: Exception) -> None:
        """The handler raised ``error``: log it, at most once a second for each kind of error; close the session."""
        self._endpoint.log_failure(self.peer, type(self._handler).__name__, error)
        self.close(CloseReason.ERROR)

    def start_tick(self) -> None:
        """Run the handler's ``on_tick``."""
        try:
            self._handler.on_tick(self)
        except Exception as error:
            self.failed(error)

    def start_drain(self) -> None:
        """Run the handler's ``on_drain``."""
        if self.closing:
            return
        try:
            self._handler.on_drain(self)
        except Exception as error:
            self.failed(error)

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`."""
        if self.closing:
            return
        try:
            self._handler.on_timeout(self)
        except Exception as error:
            self.failed(error)
        if self._idle and not self.closing:
            self._endpoint.ticker.arm(self, self._idle - RESOLUTION)

    def wake(self) -> None:
        """Let everybody look again who waits for room in the send queue."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
                self._told = self._told or self.closing

    def told(self) -> bool:
        """Whether a coroutine that waited in :meth:`drained` was woken because the session closed."""
        return self._told

    def forget_queued(self) -> None:
        """Nobody will take what is queued: drop it."""
        inbox = self._inbox
        while inbox is not None and inbox.messages:
            self._take(inbox)

    def _closed(self) -> None:
        try:
            self._handler.on_close(self, self.close_reason or CloseReason.APP)
        except Exception:
            log.exception("handler failed", peer=self.peer, handler=type(self._handler).__name__)
        self._endpoint.closed(self)

    def _take(self, inbox: Inbox) -> bytes:
        data: bytes = inbox.take()
        self._endpoint.backlog.used -= len(data)
        return data

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(f"the session with {self.peer} is closed ({self.close_reason or CloseReason.DRAIN})")

    def _no_inbox(self) -> Inbox:
        raise RuntimeError("only coroutine handlers receive; an event-style handler gets on_message")
