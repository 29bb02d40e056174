"""The TCP server: accepts connections, gives each its handler, and sees all of them off in the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog

from forebay.engine.address import Address, parse_address
from forebay.engine.connection import CloseReason, Connection
from forebay.engine.framed import make_connection
from forebay.engine.listener import listen
from forebay.engine.loop import Ticker, now, ticker
from forebay.engine.styles import CoroutineHandler, HandlerFactory, handler_factory
from forebay.engine.tasks import Gate, Tasks
from forebay.observe.metrics import Family, Sample
from forebay.service import State
from forebay.wire.framing import Framing

__all__ = ["TCPServer"]

log = structlog.get_logger("forebay.engine")


class TCPServer:
    """Serves TCP connections. A :class:`~forebay.service.Service`.

    :param handler: a coroutine function, run as one Task per connection, whose return closes the connection; or a
        :class:`ConnectionHandler` class or any function that makes one, called once per connection (event style).
    :param bind: one address or several, as URLs (``tcp://127.0.0.1:9000``); port 0 takes any free one.
    :param framing: how bytes become messages; ``None``: messages are bytes, cut as they arrive.
    :param name: in logs and metrics; the first address when not given.
    :param max_connections: at once; those past it are closed as soon as they are accepted, and counted.
    :param idle_timeout: seconds after which a connection from which no message came is closed; ``None``: never.
    :param write_high: bytes waiting to be sent from which on a connection is not ``writable``.
    :param write_low: bytes below which it is again; a quarter of ``write_high`` when not given.
    :param write_timeout: seconds after which a peer is cut that takes nothing of what waits for it; ``None``: never.
    :param inbound_limit: messages queued for a coroutine handler, past which nothing more is read from the network.
    :param tick: seconds between calls of every handler's ``on_tick``; ``None``: they are not called.
    :param backlog: connections the kernel queues before they are accepted.
    :raises ValueError: an argument makes no sense.
    """

    ticker: Ticker  # from the moment it is started

    def __init__(
        self,
        handler: CoroutineHandler | HandlerFactory,
        *,
        bind: str | Address | Sequence[str | Address],
        framing: Framing | None = None,
        name: str | None = None,
        max_connections: int = 10_000,
        idle_timeout: float | None = 90.0,
        write_high: int = 64 * 1024,
        write_low: int | None = None,
        write_timeout: float | None = 30.0,
        inbound_limit: int = 64,
        tick: float | None = None,
        backlog: int = 1024,
    ) -> None:
        targets = [bind] if isinstance(bind, str | Address) else list(bind)
        self.bind = [parse_address(one) if isinstance(one, str) else one for one in targets]
        self.write_high = write_high
        self.write_low = write_high // 4 if write_low is None else write_low
        _check(bool(self.bind), "bind must name an address")
        _check(max_connections >= 1, "max_connections must be at least 1")
        _check(inbound_limit >= 1, "inbound_limit must be at least 1")
        _check(0 <= self.write_low <= write_high, "write_low must be from 0 to write_high")
        for label, seconds in (("idle_timeout", idle_timeout), ("write_timeout", write_timeout), ("tick", tick)):
            _check(seconds is None or seconds > 0, f"{label} must be more than 0, or None")
        self.name = name or str(self.bind[0])
        self.framing = framing
        self.max_connections = max_connections
        self.idle_timeout = idle_timeout
        self.write_timeout = write_timeout
        self.inbound_limit = inbound_limit
        self.tick = tick
        self.backlog = backlog
        self.state = State.NEW
        self.addresses: list[Address] = []  # with the ports that were taken
        self._listeners: list[asyncio.Server] = []
        self._connections: dict[Connection, None] = {}
        self._none_left = Gate(is_open=True)
        self._tasks = Tasks()
        self._make = handler_factory(handler, self._tasks, inbound_limit)
        self._next_tick: asyncio.TimerHandle | None = None
        self._accepted = self._refused = self._refused_reported = 0
        self._refusal_logged_at = float("-inf")
        self._closed: Counter[CloseReason] = Counter()
        self._totals = _Totals()  # of the connections that are gone

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses or self.bind))
        return f"<TCPServer {self.name} {self.state} {where} connections={self.connections}>"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen, and serve.

        :raises StartError: an address cannot be listened on; then none is.
        """
        self.state = State.STARTING
        self.ticker = ticker()
        loop = asyncio.get_running_loop()
        try:
            for address in self.bind:
                sock = await listen(address)
                try:
                    port = sock.getsockname()[1]
                    listener = await loop.create_server(self._accept, sock=sock, backlog=self.backlog)
                except BaseException:
                    sock.close()
                    raise
                self._listeners.append(listener)
                self.addresses.append(address.with_port(port))
        except BaseException:
            await self.stop()
            raise
        if self.tick is not None:
            self._next_tick = loop.call_later(self.tick, self._run_tick, self.tick)
        self.state = State.RUNNING
        log.info("listening", server=self.name, addresses=[str(address) for address in self.addresses])

    async def drain(self) -> None:
        """Accept nothing more, tell every handler, and return when the last connection is closed."""
        if self.state is not State.RUNNING:
            return
        self.state = State.DRAINING
        await self._close_listeners()
        for conn in list(self._connections):
            conn.start_drain()
        await self._none_left.wait()
        await self._tasks.join()

    async def stop(self) -> None:
        """Close everything, now. Connections that are still open are reset, and their coroutine handlers cancelled."""
        self.state = State.STOPPED
        await self._close_listeners()
        for conn in list(self._connections):
            conn.abort(CloseReason.STOPPED)
        await self._tasks.cancel()
        await self._none_left.wait()
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._next_tick = None

    async def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        loop = asyncio.get_running_loop()
        try:
            if listeners and isinstance(loop, asyncio.BaseEventLoop):
                # The standard loop forgets, and leaks, what it accepted in the very iteration its server is closed in.
                for listener in listeners:
                    for sock in listener.sockets:
                        loop.remove_reader(sock.fileno())
                await asyncio.sleep(0)
        finally:
            for listener in listeners:
                listener.close()
        for _ in range(2):  # what was accepted already shows up now, if ever
            await asyncio.sleep(0)

    def _accept(self) -> Connection:
        handler, inbox = self._make()
        return make_connection(self, handler, framing=self.framing, idle=self.idle_timeout, inbox=inbox)

    # What connections call (connection.ConnectionOwner)

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.connection.ConnectionOwner`."""
        if self.state is State.STOPPED:
            return False
        if len(self._connections) >= self.max_connections:
            self._refuse()
            return False
        self._accepted += 1
        self._connections[conn] = None
        self._none_left.close()
        if self.state is State.DRAINING:  # it was accepted just before
            asyncio.get_running_loop().call_soon(conn.start_drain)
        return True

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.connection.ConnectionOwner`."""
        del self._connections[conn]
        self._totals.add(conn)
        if conn.close_reason is not None:
            self._closed[conn.close_reason] += 1
        if not self._connections:
            self._none_left.open()

    def _refuse(self) -> None:
        self._refused += 1
        if now() - self._refusal_logged_at >= 1.0:
            self._refusal_logged_at = now()
            log.warning(
                "connections refused",
                server=self.name,
                reason="max_connections reached",
                limit=self.max_connections,
                count=self._refused - self._refused_reported,
            )
            self._refused_reported = self._refused

    def _run_tick(self, seconds: float) -> None:
        self._next_tick = asyncio.get_running_loop().call_later(seconds, self._run_tick, seconds)
        for conn in list(self._connections):
            if not conn.closing:
                conn.start_tick()

    # What can be seen

    def statistics(self) -> dict[str, Any]:
        """Counts since the start."""
        totals = self._current_totals()
        return {
            "connections": self.connections,
            "max_connections": self.max_connections,
            "accepted": self._accepted,
            "refused": self._refused,
            "closed": {str(reason): count for reason, count in sorted(self._closed.items())},
            "bytes_in": totals.bytes_in,
            "bytes_out": totals.bytes_out,
            "messages_in": totals.messages_in,
            "messages_out": totals.messages_out,
            "writes_dropped": totals.writes_dropped,
        }

    def collect(self) -> list[Family]:
        """As metrics, labelled with the server's name."""
        totals = self._current_totals()
        label = (("server", self.name),)
        closed = [Sample("_total", (*label, ("reason", str(r))), n) for r, n in sorted(self._closed.items())]

        def counter(name: str, help_text: str, value: int) -> Family:
            return Family(f"forebay_tcp_{name}", "counter", help_text, [Sample("_total", label, value)])

        return [
            Family(
                "forebay_tcp_connections",
                "gauge",
                "Connections that are open.",
                [Sample("", label, self.connections)],
            ),
            counter("accepted", "Connections accepted.", self._accepted),
            counter("refused", "Connections closed at once because max_connections was reached.", self._refused),
            Family("forebay_tcp_closed", "counter", "Connections closed, by reason.", closed),
            counter("received_bytes", "Bytes received.", totals.bytes_in),
            counter("sent_bytes", "Bytes written.", totals.bytes_out),
            counter("received_messages", "Messages received; without framing, chunks.", totals.messages_in),
            counter("sent_messages", "Messages written.", totals.messages_out),
        ]

    def _current_totals(self) -> _Totals:
        totals = _Totals()
        totals.add(self._totals)
        for conn in self._connections:
            totals.add(conn)
        return totals


class _Totals:
    """The counters of a connection, added up."""

    __slots__ = ("bytes_in", "bytes_out", "messages_in", "messages_out", "writes_dropped")

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = self.writes_dropped = 0

    def add(self, other: Connection | _Totals) -> None:
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.messages_in += other.messages_in
        self.messages_out += other.messages_out
        self.writes_dropped += other.writes_dropped


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"TCPServer: {message}")
