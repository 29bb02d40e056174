"""The UDP server: sorts datagrams into sessions, one per peer, or hands each one over for itself."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import structlog

from forebay.engine.address import Address, parse_address
from forebay.engine.datagram_handler import (
    Backlog,
    DatagramCoroutine,
    DatagramHandlerFactory,
    datagram_handler_factory,
)
from forebay.engine.datagram_session import DatagramSession
from forebay.engine.datagram_socket import LONGEST, DatagramSocket, attach
from forebay.engine.datagram_stateless import StatelessHandler, stateless_socket
from forebay.engine.ends import host_of
from forebay.engine.handler import CloseReason
from forebay.engine.listener import bound_address, listen, release
from forebay.engine.loop import Ticker, now, ticker
from forebay.engine.settings import Admission
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import StartError
from forebay.observe.metrics import Family, Sample
from forebay.observe.sparing import Sparing
from forebay.policy.admission import Doorkeeper, Refusal
from forebay.service import State

__all__ = ["UDPServer"]

log = structlog.get_logger("forebay.engine")

_DROPPED = ("drain", "error", "inbox", "kernel", "length", "max-sessions", "memory", "per-peer", "rate")
_UNSENT = ("closed", "error", "send-queue")
_REFUSED = {Refusal.FULL: "max-sessions", Refusal.PER_PEER: "per-peer", Refusal.RATE: "rate"}
_ADMISSION = Admission()


class UDPServer:
    """Serves datagrams. A :class:`~forebay.service.Service`.

    The datagrams of one peer (address and port) to one socket are a *session*. It begins with the first of them and
    expires once none has come for ``session_timeout``. Sources can be forged, so a flood may well fill
    ``max_sessions``: then datagrams of new peers are dropped, while the sessions that are there live on undisturbed,
    and memory stays where it is. Answers must never be much longer than what they answer before the peer has proved
    to receive them; else the server is an amplifier for attacks on whoever is named as the source.

    Answers leave from the socket the datagram came to. Where that is bound to every address (``*``, ``0.0.0.0``,
    ``[::]``) the kernel chooses their source by the route. On a host with several addresses that need not be the one
    the peer called, and the peer then ignores them: bind each address.

    Whatever is dropped is counted by its reason, in :meth:`statistics` under ``dropped`` (received, not handed over)
    and ``unsent``:

    ================ =================================================================================================
    dropped          why
    ================ =================================================================================================
    ``kernel``       the socket's receive buffer was full: we are too slow, or ``receive_buffer`` is too small
    ``length``       longer than ``datagram_maximum``
    ``max-sessions`` from a new peer, with that many open
    ``per-peer``     from a new peer, with ``admission.per_peer`` sessions of its address open
    ``rate``         from a new peer, past ``admission.rate``
    ``inbox``        ``inbound_limit`` datagrams wait for the session's coroutine. The newest is dropped, as in the
                     kernel's own queue: what was taken on first is answered first
    ``memory``       ``buffer_memory`` is in use
    ``drain``        from a new peer, or for a coroutine that was told to finish
    ``error``        the handler could not be made
    **unsent**
    ``send-queue``   ``send_limit`` bytes waited already
    ``error``        the system refused: no route, a firewall
    ``closed``       a reply (``stateless``) after the socket was closed
    ================ =================================================================================================

    :param handler: a coroutine function, run as one Task per session, whose return closes the session; or a
        :class:`DatagramHandler` class or any function that makes one, called once per session (event style). With
        ``stateless``: a function that is called with each :class:`Datagram`.
    :param bind: one address or several, as URLs (``udp://127.0.0.1:9000``); port 0 takes any free one.
    :param name: in logs and metrics; the first address when not given.
    :param stateless: there are no sessions. For services whose every datagram stands for itself (DNS, statsd, syslog):
        cheaper, and a flood of forged sources leaves nothing behind. A handler that is a coroutine function is run as
        one Task per datagram, at most ``max_sessions`` at once, each cancelled after ``session_timeout``.
    :param session_timeout: seconds after which a session expires in which no datagram was received; ``None``: never. A
        coroutine handler that does not wait for a datagram then is cancelled.
    :param max_sessions: at once.
    :param inbound_limit: datagrams queued for a session's coroutine handler.
    :param buffer_memory: bytes of datagrams queued for coroutine handlers, all sessions together.
    :param datagram_maximum: bytes; longer ones are dropped.
    :param send_limit: bytes waiting in a socket's send queue past which what is written is dropped. Something waits
        only while the kernel takes nothing more; ``await session.send(...)`` waits instead.
    :param receive_buffer: bytes the kernel queues for each socket (``SO_RCVBUF``); ``None``: its default. It grants at
        most ``net.core.rmem_max``.
    :param tick: seconds between calls of every handler's ``on_tick``; ``None``: they are not called.
    :param admission: bounds on new sessions: how many of one address, and how fast.
    :raises ValueError: an argument makes no sense.
    """

    ticker: Ticker  # from the moment it is started

    def __init__(
        self,
        handler: DatagramCoroutine | DatagramHandlerFactory | StatelessHandler,
        *,
        bind: str | Address | Sequence[str | Address],
        name: str | None = None,
        stateless: bool = False,
        session_timeout: float | None = 60.0,
        max_sessions: int = 10_000,
        inbound_limit: int = 64,
        buffer_memory: int = 256 * 1024 * 1024,
        datagram_maximum: int = LONGEST,
        send_limit: int = 256 * 1024,
        receive_buffer: int | None = None,
        tick: float | None = None,
        admission: Admission = _ADMISSION,
    ) -> None:
        targets = [bind] if isinstance(bind, str | Address) else list(bind)
        self.bind = [parse_address(one, schemes=("udp", "fd")) if isinstance(one, str) else one for one in targets]
        _check(bool(self.bind), "bind must name an address")
        _check(max_sessions >= 1, "max_sessions must be at least 1")
        _check(inbound_limit >= 1, "inbound_limit must be at least 1")
        _check(buffer_memory >= 0, "buffer_memory must be at least 0")
        _check(0 <= datagram_maximum <= LONGEST, f"datagram_maximum must be from 0 to {LONGEST}")
        _check(send_limit >= 0, "send_limit must be at least 0")
        _check(receive_buffer is None or receive_buffer > 0, "receive_buffer must be more than 0, or None")
        for label, seconds in (("session_timeout", session_timeout), ("tick", tick)):
            _check(seconds is None or seconds > 0, f"{label} must be more than 0, or None")
        _check(not stateless or callable(handler), "handler must be a function")
        self.name = name or str(self.bind[0])
        self.stateless = stateless
        self.session_timeout = session_timeout
        self.max_sessions = max_sessions
        self.datagram_maximum = datagram_maximum
        self.send_limit = send_limit
        self.receive_buffer = receive_buffer
        self.tick = tick
        self.state = State.NEW
        self.addresses: list[Address] = []  # with the ports that were taken
        self.backlog = Backlog(buffer_memory)
        self.totals = _Totals()  # of the sessions that are gone, and of datagrams without one
        self.unsent: Counter[str] = Counter()
        self.refusing = False  # it drains or is stopped
        self._sockets: list[DatagramSocket] = []
        self._sessions: dict[DatagramSession, None] = {}
        self._doors = Doorkeeper(max_sessions, per_peer=admission.per_peer, rate=admission.rate, burst=admission.burst)
        self._none_left = Gate(is_open=True)
        self.tasks = Tasks()
        self._handler = handler
        if not stateless:
            sessions = cast("DatagramCoroutine | DatagramHandlerFactory", handler)
            self._make = datagram_handler_factory(sessions, self.tasks, inbound_limit, self.backlog)
        self._next_tick: asyncio.TimerHandle | None = None
        self._opened = 0
        self._closed: Counter[CloseReason] = Counter()
        self._dropped: Counter[str] = Counter()
        self._sparing = Sparing()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses or self.bind))
        return f"<UDPServer {self.name} {self.state} {where} sessions={self.sessions}>"

    @property
    def sessions(self) -> int:
        """How many are open; of a stateless server, how many datagrams are being worked on by coroutines."""
        return len(self.tasks) if self.stateless else len(self._sessions)

    async def start(self) -> None:
        """Bind, and serve.

        :raises StartError: an address cannot be bound; then none is.
        """
        self.state = State.STARTING
        self.ticker = ticker()
        try:
            for address in self.bind:
                sock = await listen(address, datagrams=True)
                try:
                    made = self._socket(address, sock)
                    bound = bound_address(address, sock)
                except BaseException:
                    release(sock, address)
                    raise
                self._sockets.append(made)
                await attach(made)
                self.addresses.append(bound)
        except BaseException:
            await self.stop()
            raise
        if self.tick is not None:
            self._next_tick = asyncio.get_running_loop().call_later(self.tick, self._run_tick, self.tick)
        self.state = State.RUNNING
        log.info("listening", server=self.name, addresses=[str(address) for address in self.addresses])

    async def drain(self) -> None:
        """Open no more sessions, tell every handler, and close the sockets when the last session is closed.

        What a new peer sends meanwhile is dropped. The peers of open sessions are served until those are closed.
        """
        if self.state is not State.RUNNING:
            return
        self.state = State.DRAINING
        self.refusing = True
        for session in list(self._sessions):
            session.start_drain()
        await self._none_left.wait()
        await self.tasks.join()
        for sock in self._sockets:
            sock.close()
        await self._all_gone()

    async def stop(self) -> None:
        """Close everything, now. Coroutine handlers are cancelled."""
        self.state = State.STOPPED
        self.refusing = True
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._next_tick = None
        for session in list(self._sessions):
            session.close(CloseReason.STOPPED)
        for sock in self._sockets:
            sock.abort()
        await self.tasks.cancel()
        await self._none_left.wait()
        await self._all_gone()

    async def _all_gone(self) -> None:
        for sock in self._sockets:
            await sock.gone()

    def _socket(self, address: Address, sock: socket.socket) -> DatagramSocket:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError(f"cannot listen on {address}: that is not a socket for UDP")
        if self.receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for itself
            if granted < self.receive_buffer:
                log.warning("receive buffer is smaller than asked for", server=self.name, bytes=granted)
        if self.stateless:
            return stateless_socket(self, sock, cast("StatelessHandler", self._handler))
        return _SessionSocket(self, sock)

    # What its sockets call

    def admit(self, where: _SessionSocket, peer: Any) -> DatagramSession | None:
        """A new session for ``peer``; None: there is none, and its datagram is dropped."""
        host = host_of(peer)
        if self.refusing:
            self.drop("drain")
            return None
        if len(self.tasks) >= self.max_sessions:  # a coroutine may still run when its session is closed
            self.drop("max-sessions")
            return None
        refusal = self._doors.enter(host, now())
        if refusal is not None:
            self.drop(_REFUSED[refusal])
            return None
        try:
            handler, inbox = self._make()
        except Exception as error:
            self._doors.leave(host)
            self.drop("error", error)
            return None
        session = DatagramSession(where, peer, handler, inbox, self.session_timeout)
        where.sessions[peer] = session
        self._sessions[session] = None
        self._opened += 1
        self._none_left.close()
        session.open()
        return None if session.closing else session

    def closed(self, session: DatagramSession) -> None:
        """``session`` is gone, and its handler has been told."""
        del self._sessions[session]
        self._doors.leave(session.peer_host)
        self.totals.add(session)
        if session.close_reason is not None:
            self._closed[session.close_reason] += 1
        if not self._sessions:
            self._none_left.open()

    def drop(self, reason: str, error: Exception | None = None) -> None:
        """Count a datagram that is not handed over."""
        self._dropped[reason] += 1
        left_out = self._sparing.due(reason, now())
        if left_out is not None:
            log.warning("datagram dropped", server=self.name, reason=reason, left_out=left_out, exc_info=error)

    def _run_tick(self, seconds: float) -> None:
        self._next_tick = asyncio.get_running_loop().call_later(seconds, self._run_tick, seconds)
        for session in list(self._sessions):
            if not session.closing:
                session.start_tick()

    # What can be seen

    def statistics(self) -> dict[str, Any]:
        """Counts since the start."""
        totals = self._current_totals()
        return {
            "sessions": self.sessions,
            "max_sessions": self.max_sessions,
            "opened": self._opened,
            "closed": {str(reason): count for reason, count in sorted(self._closed.items())},
            "bytes_in": totals.bytes_in,
            "bytes_out": totals.bytes_out,
            "messages_in": totals.messages_in,
            "messages_out": totals.messages_out,
            "failed": totals.failed,
            "dropped": {reason: count for reason, count in sorted(self._all_dropped().items()) if count},
            "unsent": {reason: count for reason, count in sorted(self.unsent.items()) if count},
            "errors": sum(sock.errors for sock in self._sockets),
            "queued_bytes": self.backlog.used,
        }

    def collect(self) -> list[Family]:
        """As metrics, labelled with the server's name."""
        totals = self._current_totals()
        label = (("server", self.name),)
        dropped = self._all_dropped()

        def gauge(name: str, help_text: str, value: float) -> Family:
            return Family(f"forebay_udp_{name}", "gauge", help_text, [Sample("", label, value)])

        def counter(name: str, help_text: str, value: int) -> Family:
            return Family(f"forebay_udp_{name}", "counter", help_text, [Sample("_total", label, value)])

        def by_reason(name: str, help_text: str, values: dict[str, int]) -> Family:
            samples = [Sample("_total", (*label, ("reason", reason)), n) for reason, n in sorted(values.items())]
            return Family(f"forebay_udp_{name}", "counter", help_text, samples)

        return [
            gauge("sessions", "Sessions that are open.", self.sessions),
            gauge("queued_bytes", "Bytes of datagrams that wait for coroutine handlers.", self.backlog.used),
            counter("opened", "Sessions opened.", self._opened),
            by_reason("closed", "Sessions closed, by reason.", {str(r): n for r, n in self._closed.items()}),
            counter("received_bytes", "Bytes received.", totals.bytes_in),
            counter("sent_bytes", "Bytes sent.", totals.bytes_out),
            counter("received_messages", "Datagrams received.", totals.messages_in),
            counter("sent_messages", "Datagrams sent.", totals.messages_out),
            by_reason(
                "dropped",
                "Datagrams received and not handed over, by reason; kernel: the receive buffer was full.",
                {reason: dropped[reason] for reason in _DROPPED},
            ),
            by_reason(
                "unsent",
                "Datagrams written and not sent, by reason.",
                {reason: self.unsent[reason] for reason in _UNSENT},
            ),
            counter("failed", "Stateless handlers that raised, or took too long.", totals.failed),
            counter(
                "errors",
                "Errors the network reported.",
                sum(sock.errors for sock in self._sockets),
            ),
        ]

    def _all_dropped(self) -> Counter[str]:
        dropped = Counter(self._dropped)
        dropped["kernel"] = sum(sock.kernel_drops() or 0 for sock in self._sockets)
        return dropped

    def _current_totals(self) -> _Totals:
        totals = _Totals()
        totals.add(self.totals)
        totals.failed = self.totals.failed
        for session in self._sessions:
            totals.add(session)
        return totals


class _SessionSocket(DatagramSocket):
    """A socket whose datagrams are sorted into sessions."""

    def __init__(self, server: UDPServer, sock: socket.socket) -> None:
        super().__init__(sock, send_limit=server.send_limit, unsent=server.unsent)
        self.sessions: dict[Any, DatagramSession] = {}  # by the peer's address, as the loop gives it
        self.ticker = server.ticker
        self.backlog = server.backlog
        self._server = server
        self._maximum = server.datagram_maximum
        self._waiting: dict[DatagramSession, None] = {}  # for room in the send queue

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Called by the event loop."""
        if len(data) > self._maximum:
            self._server.drop("length")
            return
        session = self.sessions.get(addr) or self._server.admit(self, addr)
        if session is not None:
            session.received(data)

    def resume_writing(self) -> None:
        """Called by the event loop: the send queue is empty again."""
        super().resume_writing()
        waiting, self._waiting = self._waiting, {}
        for session in waiting:
            session.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        super().connection_lost(exc)
        for session in list(self.sessions.values()):  # none, unless the socket broke
            session.close(CloseReason.RESET)

    # What sessions call (datagram_session.SessionEndpoint)

    def await_room(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""
        self._waiting[session] = None

    def lost(self, session: DatagramSession, reason: str) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""
        self._server.drop(reason)

    def closing(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""
        del self.sessions[session.address]
        self._waiting.pop(session, None)

    def closed(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""
        self._server.closed(session)


class _Totals:
    """The counters of a session, added up."""

    __slots__ = ("bytes_in", "bytes_out", "failed", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = 0
        self.failed = 0  # stateless handlers that raised

    def add(self, other: DatagramSession | _Totals) -> None:
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.messages_in += other.messages_in
        self.messages_out += other.messages_out


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"UDPServer: {message}")
