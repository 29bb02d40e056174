"""The TCP server: accepts connections, gives each its handler, and sees all of them off in the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from forebay.engine.address import LISTEN_SCHEMES, Address, parse_address
from forebay.engine.connection import CloseReason, Connection
from forebay.engine.counts import Counts, counter, gauge, labelled
from forebay.engine.framed import make_connection
from forebay.engine.handler import ConnectionOwner
from forebay.engine.layers import Entrance, Layer
from forebay.engine.listener import bound_address, listen, release, serve_socket
from forebay.engine.load import accepted
from forebay.engine.loop import Ticker, now, ticker
from forebay.engine.memory import BufferMemory
from forebay.engine.proxy_protocol import ProxyProtocol
from forebay.engine.settings import Admission, Heartbeat, Keepalive, Outbound, as_heartbeat
from forebay.engine.styles import CoroutineHandler, HandlerFactory, handler_factory
from forebay.engine.tasks import Gate, Tasks
from forebay.engine.tenancy import Tenancy
from forebay.engine.timing import Screen, Timing
from forebay.engine.tls_settings import TLS
from forebay.errors import StartError
from forebay.observe.metrics import Family
from forebay.observe.sparing import Sparing
from forebay.policy.admission import Doorkeeper, Refusal
from forebay.service import State
from forebay.wire.framing import Framing

__all__ = ["TCPServer"]

log = structlog.get_logger("forebay.engine")

_OUTBOUND = Outbound()
_ADMISSION = Admission()
_MEASURE_EVERY = 1.0  # seconds
_INBOX_AT_MOST = 512 * 1024  # bytes, with the chunk that made it full
_TENANCIES_AT_MOST = 64


class TCPServer:
    """Serves connections over TCP, TLS and UNIX sockets. A :class:`~forebay.service.Service`.

    :param handler: a coroutine function, run as one Task per connection, whose return closes the connection; or a
        :class:`ConnectionHandler` class or any function that makes one, called once per connection (event style).
    :param bind: one address or several, as URLs (``tcp://127.0.0.1:9000``, ``tls://``, ``unix:///run/app.sock``,
        ``fd://3``; see :mod:`forebay.engine.address`); port 0 takes any free one.
    :param framing: how bytes become messages; ``None``: messages are bytes, cut as they arrive.
    :param name: in logs and metrics; the first address when not given.
    :param max_connections: at once; those past it are closed as soon as they are accepted, and counted.
    :param idle_timeout: seconds after which a connection from which no message came is closed; ``None``: never.
    :param first_byte_timeout: seconds a new connection has for its first byte; ``None``: as many as it likes.
    :param message_timeout: seconds for a message from its first byte to its last; ``None``: as many as it likes.
    :param heartbeat: how a peer that is gone is found out; a number is short for ``Heartbeat(interval=...)``.
    :param tick: seconds between calls of every handler's ``on_tick``; ``None``: they are not called.
    :param inbound_limit: messages queued for a coroutine handler, past which nothing more is read from the network.
    :param backlog: connections the kernel queues before they are accepted.
    :param outbound: how much may wait to be sent on a connection, and what happens to slow consumers.
    :param admission: who is let in, beside ``max_connections``.
    :param buffer_memory: bytes that the buffers of all connections may take together. Past it those that have most are
        cut. ``None``: no bound.
    :param tls: certificates and settings, for ``tls://`` addresses.
    :param proxy_protocol: which peers say in a PROXY header for whom they connect.
    :param keepalive: whether the kernel probes silent peers, and when; ``None``: it does not.
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
        first_byte_timeout: float | None = 30.0,
        message_timeout: float | None = 30.0,
        heartbeat: float | Heartbeat | None = None,
        tick: float | None = None,
        inbound_limit: int = 64,
        backlog: int = 1024,
        outbound: Outbound = _OUTBOUND,
        admission: Admission = _ADMISSION,
        buffer_memory: int | None = 256 * 1024 * 1024,
        tls: TLS | None = None,
        proxy_protocol: ProxyProtocol | None = None,
        keepalive: Keepalive | None = None,
    ) -> None:
        targets = [bind] if isinstance(bind, str | Address) else list(bind)
        self.bind = [parse_address(one, schemes=LISTEN_SCHEMES) if isinstance(one, str) else one for one in targets]
        _check(bool(self.bind), "bind must name an address")
        _check(max_connections >= 1, "max_connections must be at least 1")
        _check(inbound_limit >= 1, "inbound_limit must be at least 1")
        _check(buffer_memory is None or buffer_memory >= 1, "buffer_memory must be at least 1, or None")
        for label, seconds in (
            ("idle_timeout", idle_timeout),
            ("first_byte_timeout", first_byte_timeout),
            ("message_timeout", message_timeout),
            ("tick", tick),
        ):
            _check(seconds is None or seconds > 0, f"{label} must be more than 0, or None")
        self._entrance = Entrance(self, tls, proxy_protocol)
        for address in self.bind:
            self._entrance.check(address)
        self.name = name or str(self.bind[0])
        self.framing = framing
        self.timing = Timing(idle_timeout, first_byte_timeout, message_timeout, as_heartbeat(heartbeat))
        self.outbound = outbound
        self.keepalive = keepalive
        self.tick = tick
        self.backlog = backlog
        self.state = State.NEW
        self.addresses: list[Address] = []  # with the ports that were taken
        self._listeners: list[asyncio.Server] = []
        self._sockets: dict[asyncio.Server, tuple[socket.socket, Address]] = {}
        self._connections: dict[Connection, None] = {}
        self._none_left = Gate(is_open=True)
        self._tasks = Tasks()
        self._make = handler_factory(handler, self._tasks, inbound_limit)
        self._doors = Doorkeeper(
            max_connections, per_peer=admission.per_peer, rate=admission.rate, burst=admission.burst
        )
        self._memory = BufferMemory(buffer_memory, lambda: self._connections) if buffer_memory else None
        self._most_received = _INBOX_AT_MOST + (framing.maximum if framing is not None else 0)
        self._most_in_one = outbound.high + self._most_received
        self._tenancies: dict[Outbound, Tenancy] = {}
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._counts = Counts()
        self._sparing = Sparing()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses or self.bind))
        return f"<TCPServer {self.name} {self.state} {where} connections={self.connections}>"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    @property
    def max_connections(self) -> int:
        """How many there may be."""
        return self._doors.maximum

    async def start(self) -> None:
        """Listen, and serve.

        :raises StartError: an address cannot be listened on, then none is; or a certificate cannot be used.
        """
        self.state = State.STARTING
        self.ticker = ticker()
        self._tenancies.clear()  # they would keep the ticker of another loop
        try:
            await self._entrance.start()
            for address in self.bind:
                try:
                    self._entrance.check(address)  # it may have been given other addresses since it was made
                except ValueError as error:
                    raise StartError(f"{self.name}: {error}") from None
            for address in self.bind:
                await self._listen(address)
        except BaseException:
            await self.stop()
            raise
        if self.tick is not None:
            self._every(self.tick, self._run_ticks)
        if self._memory is not None:
            self._every(_MEASURE_EVERY, self._measure)
        self.state = State.RUNNING
        log.info("listening", server=self.name, addresses=[str(address) for address in self.addresses])

    async def _listen(self, address: Address) -> None:
        sock = await listen(address)
        try:
            found = bound_address(address, sock)
            listener = await serve_socket(sock, self._entrance.factory(address), backlog=self.backlog)
        except BaseException:
            release(sock, address)
            raise
        self._sockets[listener] = sock, address
        self._listeners.append(listener)
        self.addresses.append(found)

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
        self._entrance.stop()
        for conn in list(self._connections):
            conn.abort(CloseReason.STOPPED)
        await self._tasks.cancel()
        await self._none_left.wait()
        await self._entrance.stopped()
        while self._timers:
            self._timers.popitem()[1].cancel()

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
                release(*self._sockets.pop(listener))
        for _ in range(2):  # what was accepted already shows up now, if ever
            await asyncio.sleep(0)

    def protocol(self, address: Address) -> asyncio.BaseProtocol:
        """The protocol of a connection that comes by no listener: it lives like one that came to ``address``, from the
        ``connection_made`` that whoever has its transport calls. A server whose :attr:`bind` is empty has only such.
        Once the server is started."""
        return self._entrance.factory(address)()

    # What the entrance calls, and through it the loop

    def make(self) -> Connection:
        """The protocol object of a new connection, with its handler."""
        handler, inbox = self._make()
        heartbeat = self.timing.heartbeat
        if heartbeat is not None and (heartbeat.is_ping or heartbeat.is_pong):
            handler = Screen(handler, heartbeat)
        return make_connection(self, handler, framing=self.framing, inbox=inbox)

    def enter(self, host: str) -> bool:
        """Whether somebody from ``host`` may come in."""
        if self.state is State.STOPPED:
            return False
        refusal = self._doors.enter(host, now())
        if refusal is not None:
            self._refused(refusal, host)
            return False
        self._counts.accepted += 1
        accepted.count += 1
        self._none_left.close()
        return True

    def move(self, before: str, host: str) -> bool:
        """Whether somebody who came in as of ``before`` may stay as of ``host``."""
        refusal = self._doors.move(before, host)
        if refusal is None:
            return True
        self._refused(refusal, host)
        self._seen_off()
        return False

    def leave(self, host: str) -> None:
        """Somebody who came in has gone."""
        self._doors.leave(host)
        self._seen_off()

    def _seen_off(self) -> None:
        if not self._doors.inside:
            self._none_left.open()

    def failed(self, layer: Layer, reason: CloseReason, detail: str) -> None:
        """Somebody came in, and no connection came about."""
        self._counts.closed[reason] += 1
        if (left_out := self._sparing.due(reason, now())) is not None:
            log.warning(
                "connection failed",
                server=self.name,
                peer=layer.peer,
                reason=str(reason),
                detail=detail,
                left_out=left_out,
            )

    def _refused(self, refusal: Refusal, host: str) -> None:
        if (left_out := self._sparing.due(refusal, now())) is not None:
            log.warning("connection refused", server=self.name, peer=host, reason=str(refusal), left_out=left_out)

    # What connections call (handler.ConnectionOwner)

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        if not self._entrance.let_through(conn):
            return False
        conn.peer_host = self._doors.name(conn.peer_host)
        self._connections[conn] = None
        if self.keepalive is not None:
            self.keepalive.apply(conn.transport.get_extra_info("socket"))
        if self.state is State.DRAINING:  # it was accepted just before
            asyncio.get_running_loop().call_soon(conn.start_drain)
        return True

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        del self._connections[conn]
        self._counts.add(conn)
        self.leave(conn.peer_host)

    def buffered(self, size: int) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        if self._memory is not None:
            self._memory.grew(size)

    def dropped(self) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        if (left_out := self._sparing.due("dropped", now())) is not None:
            log.warning("messages dropped", server=self.name, reason="slow consumers", left_out=left_out)

    def owner_for(self, outbound: Outbound) -> ConnectionOwner:
        """Who is to own a connection of this server that is to follow other rules for slow peers from now on; the same
        for the same rules. Once the server is started."""
        if outbound == self.outbound:
            return self
        found = self._tenancies.get(outbound)
        if found is None:
            if len(self._tenancies) >= _TENANCIES_AT_MOST:
                del self._tenancies[next(iter(self._tenancies))]  # connections that have it keep it
            found = self._tenancies[outbound] = Tenancy(self, outbound)
            self._most_in_one = max(self._most_in_one, outbound.high + self._most_received)
        return found

    # What happens again and again

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._every(seconds, action)
            action()

        self._timers[action] = asyncio.get_running_loop().call_later(seconds, run)

    def _run_ticks(self) -> None:
        for conn in list(self._connections):
            if not conn.closing:
                conn.start_tick()

    def _measure(self) -> None:
        memory = self._memory
        if memory is not None and len(self._connections) * self._most_in_one > memory.limit:
            memory.measure()

    # What can be seen

    def _buffered(self) -> int:
        return sum(conn.buffer_size() for conn in self._connections)

    def statistics(self) -> dict[str, Any]:
        """Counts since the start."""
        refused = self._doors.refused
        return {
            "connections": self.connections,
            "max_connections": self.max_connections,
            "accepted": self._counts.accepted,
            "refused": refused.total(),
            "refused_by": {str(refusal): count for refusal, count in sorted(refused.items())},
            "closed": {str(reason): count for reason, count in sorted(self._counts.closed.items())},
            "buffer_bytes": self._buffered(),
            **self._counts.totals(self._connections),
            **self._entrance.statistics(),
        }

    def collect(self) -> list[Family]:
        """As metrics, labelled with the server's name."""
        totals = self._counts.totals(self._connections)
        counts = (
            ("accepted", "Connections accepted.", self._counts.accepted),
            ("received_bytes", "Bytes received.", totals["bytes_in"]),
            ("sent_bytes", "Bytes written.", totals["bytes_out"]),
            ("received_messages", "Messages received; without framing, chunks.", totals["messages_in"]),
            ("sent_messages", "Messages written.", totals["messages_out"]),
            ("dropped_messages", "Messages to slow consumers that were dropped.", totals["messages_dropped"]),
        )
        return [
            gauge("forebay_tcp_connections", "Connections that are open.", self.name, self.connections),
            gauge("forebay_tcp_buffer_bytes", "Bytes in the buffers of all.", self.name, self._buffered()),
            *(counter(f"forebay_tcp_{name}", text, self.name, value) for name, text, value in counts),
            labelled("forebay_tcp_refused", "Connections closed at once.", self.name, "reason", self._doors.refused),
            labelled("forebay_tcp_closed", "Connections closed, by reason.", self.name, "reason", self._counts.closed),
            *self._entrance.collect(self.name),
        ]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"TCPServer: {message}")
