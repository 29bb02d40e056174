"""Datagrams that each stand for themselves: no session, nothing kept once the handler has returned."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Protocol, cast

from forebay.engine.address import join_host_port
from forebay.engine.datagram_handler import Backlog
from forebay.engine.datagram_socket import DatagramSocket
from forebay.engine.ends import host_of
from forebay.engine.loop import Ticker
from forebay.engine.styles import is_coroutine_style
from forebay.engine.tasks import Task, Tasks
from forebay.errors import DeadlineExceeded

__all__ = ["Datagram", "StatelessHandler", "StatelessServer", "StatelessSocket", "stateless_socket"]


class Datagram:
    """One datagram, and the way back. ``data`` may be empty."""

    __slots__ = ("_address", "_socket", "data")

    def __init__(self, received_by: StatelessSocket, data: bytes, address: Any) -> None:
        self.data = data
        self._socket = received_by
        self._address = address

    def __repr__(self) -> str:
        return f"<Datagram of {self.peer} {len(self.data)} bytes>"

    @property
    def peer(self) -> str:
        """Who says to have sent it, ``host:port``. Anybody can claim to be anybody."""
        return join_host_port(self.peer_host, self._address[1])

    @property
    def peer_host(self) -> str:
        """The address of :attr:`peer` without its port."""
        return host_of(self._address)

    @property
    def local(self) -> str:
        """Our end, ``host:port``."""
        return self._socket.local

    def reply(self, data: bytes | bytearray | memoryview) -> None:
        """Send a datagram back, without waiting; any number of times. What cannot be sent is dropped, and counted.

        :raises ValueError: it is longer than a datagram can be (65,507 bytes over IPv4, 65,527 over IPv6).
        """
        self._socket.reply(data, self._address)

    def failed(self, error: Exception) -> None:
        """Count and log that the handler raised ``error``."""
        self._socket.failed(self._address, error)


StatelessHandler = Callable[[Datagram], Coroutine[Any, Any, None] | None]


class StatelessTotals(Protocol):
    """What is counted of datagrams."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    failed: int


class StatelessServer(Protocol):
    """What the sockets of a stateless server need of it."""

    ticker: Ticker
    tasks: Tasks
    backlog: Backlog
    unsent: Counter[str]
    send_limit: int
    datagram_maximum: int
    max_sessions: int
    session_timeout: float | None
    refusing: bool

    @property
    def totals(self) -> StatelessTotals:
        """Counts what goes in and out."""

    def drop(self, reason: str) -> None:
        """Count a datagram that is not handed over."""


class StatelessSocket(DatagramSocket):
    """A socket whose datagrams are handed to a function, one by one."""

    def __init__(self, server: StatelessServer, sock: socket.socket, handler: StatelessHandler) -> None:
        super().__init__(sock, send_limit=server.send_limit, unsent=server.unsent)
        self._server = server
        self._totals = server.totals
        self._maximum = server.datagram_maximum
        self._handler = handler

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Called by the event loop."""
        server, totals = self._server, self._totals
        if len(data) > self._maximum:
            server.drop("length")
        elif server.refusing:
            server.drop("drain")
        else:
            totals.messages_in += 1
            totals.bytes_in += len(data)
            try:
                self._handler(Datagram(self, data, addr))
            except Exception as error:
                self.failed(addr, error)

    def failed(self, address: Any, error: Exception) -> None:
        """The handler of a datagram of ``address`` raised ``error``."""
        self._totals.failed += 1
        self.log_failure(join_host_port(host_of(address), address[1]), "stateless", error)

    def reply(self, data: Any, address: Any) -> None:
        """Send ``data`` back to ``address``."""
        if not self.refuse_late() and self.send(data, address):
            self._totals.messages_out += 1
            self._totals.bytes_out += len(data)


def stateless_socket(server: StatelessServer, sock: socket.socket, handler: StatelessHandler) -> StatelessSocket:
    """The socket of a stateless server; a coroutine function is run as a Task per datagram."""
    if not is_coroutine_style(handler):
        return StatelessSocket(server, sock, handler)
    function = cast("Callable[[Datagram], Coroutine[Any, Any, None]]", handler)

    def spawn(datagram: Datagram) -> None:
        if len(server.tasks) >= server.max_sessions:
            server.drop("max-sessions")
        elif server.backlog.used + len(datagram.data) > server.backlog.limit:
            server.drop("memory")
        else:
            _Work(server, datagram, function)

    return StatelessSocket(server, sock, spawn)


class _Work:
    """A coroutine that works on one datagram, and its deadline."""

    __slots__ = ("datagram", "due_at", "expires_at", "server", "task")

    def __init__(
        self, server: StatelessServer, datagram: Datagram, function: Callable[[Datagram], Coroutine[Any, Any, None]]
    ) -> None:
        self.server = server
        self.datagram = datagram
        self.expires_at = self.due_at = inf  # see policy.timers.Timed
        server.backlog.used += len(datagram.data)
        self.task: Task[None] = server.tasks.spawn(self._run(function), name=f"datagram of {datagram.peer}")
        if server.session_timeout is not None and not self.task.done():
            server.ticker.arm(self, server.session_timeout)
        self.task.add_done_callback(self._done)

    async def _run(self, function: Callable[[Datagram], Coroutine[Any, Any, None]]) -> None:
        try:
            await function(self.datagram)
        except Exception as error:
            self.datagram.failed(error)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.server.ticker.discard(self)
        self.server.backlog.used -= len(self.datagram.data)

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`."""
        seconds = self.server.session_timeout
        self.datagram.failed(DeadlineExceeded(f"a datagram was not done with within {seconds} s"))
        self.task.cancel()
