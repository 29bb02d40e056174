"""Connected datagram sockets: exchanging datagrams with somebody else's server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from math import inf
from typing import Any

from forebay.engine.address import Address, parse_address
from forebay.engine.datagram_handler import Backlog, DatagramHandler, Queueing
from forebay.engine.datagram_session import DatagramSession
from forebay.engine.datagram_socket import LONGEST, DatagramSocket, attach
from forebay.engine.handler import CloseReason
from forebay.engine.loop import ticker
from forebay.errors import ConnectFailed, ConnectionClosed, ConnectTimeout, ForebayError, RetryClass

__all__ = ["dial_datagram"]


async def dial_datagram(
    address: str | Address,
    handler: DatagramHandler | None = None,
    *,
    timeout: float = 3.0,
    inbound_limit: int = 64,
    datagram_maximum: int = LONGEST,
    send_limit: int = 256 * 1024,
) -> DatagramSession:
    """A session with one peer, over a socket of its own that is connected to it: only that peer's datagrams come in.

    Nothing is sent, so nobody knows yet whether anybody is there. When the peer's host refuses a datagram (ICMP), the
    session ends with :attr:`CloseReason.RESET`, and whoever receives is told by :class:`ConnectFailed`, or by
    :class:`ConnectionClosed` when the peer had answered before. Datagrams and refusals both may get lost: give
    ``receive`` a timeout. The session has none of its own; see :meth:`DatagramSession.expire_in`.

    :param address: ``udp://host:port``; a name's addresses are tried in turn until there is a route to one.
    :param handler: event style; ``None``: datagrams are received with ``async for`` or ``receive``. At most
        ``inbound_limit`` wait to be received; past it the newest is dropped and counted in ``messages_dropped``.
    :param timeout: seconds for finding the host's address.
    :param datagram_maximum: bytes; longer ones are dropped, and counted likewise.
    :param send_limit: bytes waiting in the send queue past which ``write`` drops.
    :raises ConnectFailed: the name is not known, or there is no route.
    :raises ConnectTimeout: the name was not found out in time.
    :raises ValueError: the address, or another argument, makes no sense.
    """
    where = parse_address(address, schemes=("udp",)) if isinstance(address, str) else address
    if where.scheme != "udp":
        raise ValueError(f"address {where}: expected scheme udp")
    if inbound_limit < 1:
        raise ValueError("dial_datagram: inbound_limit must be at least 1")
    if not 0 <= datagram_maximum <= LONGEST:
        raise ValueError(f"dial_datagram: datagram_maximum must be from 0 to {LONGEST}")
    try:
        async with asyncio.timeout(timeout):
            found = await _resolve(where)
    except TimeoutError:
        raise ConnectTimeout(f"cannot find {where} within {timeout:g} s", target=str(where)) from None
    except OSError as error:
        raise ConnectFailed(f"cannot call {where}: {_reason(error)}", target=str(where)) from error
    made = _ConnectedSocket(_connected(where, found), str(where), datagram_maximum, send_limit)
    inbox = None
    if handler is None:
        queueing = Queueing(inbound_limit, made.backlog)
        handler, inbox = queueing, queueing.inbox
    session = made.session = DatagramSession(made, made.sock.getpeername(), handler, inbox, None)
    try:
        await attach(made)
    except BaseException:
        if made.transport is not None:  # the handler knows of it
            session.close(CloseReason.TIMEOUT)
        raise
    return session


async def _resolve(where: Address) -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)


def _connected(where: Address, found: list[Any]) -> socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, target in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.connect(target)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    reason = _reason(failure) if failure is not None else "its host has no address"
    raise ConnectFailed(f"cannot call {where}: {reason}", target=str(where)) from failure


class _ConnectedSocket(DatagramSocket):
    """A connected socket with one session, which ends with it."""

    session: DatagramSession

    def __init__(self, sock: socket.socket, target: str, maximum: int, send_limit: int) -> None:
        super().__init__(sock, send_limit=send_limit, unsent=Counter())
        self.ticker = ticker()
        self.backlog = Backlog(inf)  # bounded by what one session may queue
        self._target = target
        self._maximum = maximum
        self._sendto = lambda data, _: sock.send(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        if not self.is_closing:
            self.session.open()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Called by the event loop. The kernel has looked at ``addr``."""
        if self.session.closing:
            return
        if len(data) > self._maximum:
            self.session.drop("length")
        else:
            self.session.received(data)

    def error_received(self, exc: Exception) -> None:
        """Called by the event loop: the network reported an error. Only a refusal is final."""
        self.errors += 1
        if not isinstance(exc, ConnectionRefusedError) or self.session.closing:
            return
        error: ForebayError
        if self.session.messages_in:
            error = ConnectionClosed(f"{self._target} refuses datagrams now")
        else:
            retry = RetryClass.SAFE if self.session.messages_out <= 1 else RetryClass.MAYBE
            error = ConnectFailed(f"{self._target} refuses datagrams", target=self._target, retry=retry)
        self.session.broken(error)

    def resume_writing(self) -> None:
        """Called by the event loop: the send queue is empty again."""
        super().resume_writing()
        self.session.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        super().connection_lost(exc)
        self.session.close(CloseReason.RESET)  # nothing happens, unless the socket broke

    # What the session calls (datagram_session.SessionEndpoint)

    def await_room(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""

    def lost(self, session: DatagramSession, reason: str) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""

    def closing(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""
        self.close()

    def closed(self, session: DatagramSession) -> None:
        """See :class:`~forebay.engine.datagram_session.SessionEndpoint`."""


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    return os.strerror(error.errno).lower() if error.errno else str(error)
