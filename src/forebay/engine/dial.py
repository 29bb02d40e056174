"""Connecting to somebody else's server."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from forebay.engine.address import Address, parse_address
from forebay.engine.connection import Connection
from forebay.engine.framed import LAST_WORDS, make_connection
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.happy_eyeballs import NoneAnswered, connect_first, why
from forebay.engine.inbox import Inbox
from forebay.engine.loop import ticker
from forebay.engine.settings import Heartbeat, Keepalive, Outbound, as_heartbeat
from forebay.engine.timing import Screen, Timing
from forebay.engine.tls import TLSLayer
from forebay.engine.tls_settings import ClientTLS
from forebay.engine.tls_sides import client_side
from forebay.errors import ConnectFailed, ConnectTimeout, ForebayError, TLSFailed
from forebay.wire.framing import Framing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Mailbox", "dial", "dialled"]

_STREAMS = frozenset({"tcp", "tls", "unix", "http"})  # http: the gateway's targets
_OUTBOUND = Outbound()
_TLS = ClientTLS()
_RETRY_FULL_QUEUE = 0.02  # seconds


async def dial(
    address: str | Address,
    handler: ConnectionHandler | None = None,
    *,
    timeout: float = 3.0,
    tls: ClientTLS | None = None,
    framing: Framing | None = None,
    idle_timeout: float | None = None,
    heartbeat: float | Heartbeat | None = None,
    outbound: Outbound = _OUTBOUND,
    inbound_limit: int = 64,
    keepalive: Keepalive | None = None,
) -> Connection:
    """Connect to ``address``: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``.

    A name is looked up, and when it has several addresses they are tried by the rules of Happy Eyeballs (RFC 8305): the
    families take turns, the next one starts when one fails or after 250 ms, and the first that answers is kept.

    :param handler: event style; its ``on_open`` was called when this returns. ``None``: coroutine style, messages are
        taken with ``await conn.receive()`` or ``async for message in conn``, and sent with ``await conn.send(...)``.
        Such a connection is closed when the peer ends its side; what it sent before can still be received.
    :param timeout: seconds for finding the host's addresses and connecting to one.
    :param tls: how to speak TLS; ``None``: by the defaults of :class:`ClientTLS` on ``tls://``, else not at all. The
        handshake has its own timeout, which begins when the connection is there.
    :param framing: how bytes become messages; ``None``: messages are bytes, cut as they arrive.
    :param idle_timeout: seconds after which the connection is closed when no message came; ``None``: never.
    :param heartbeat: how a peer that is gone is found out, or just the interval in seconds; ``None``: not at all.
    :param outbound: how much may wait to be sent, and what happens then.
    :param inbound_limit: coroutine style: messages that wait to be received, past which nothing more is read.
    :param keepalive: whether the kernel probes a silent peer, and when; ``None``: it does not.

    :raises ConnectFailed: it was refused, is unreachable, or its name is not known. Nothing was sent. The message has
        the reason for each address.
    :raises ConnectTimeout: it, or its TLS handshake, did not come about in time. Nothing was sent.
    :raises TLSFailed: the handshake failed: a certificate was refused, or there is no protocol in common.
    :raises StartError: a certificate's file cannot be used.
    :raises ValueError: such an address cannot be dialled, or a parameter makes no sense.
    """
    if handler is None:
        handler = Mailbox(inbound_limit)
    address = dialled(address)
    heartbeat = as_heartbeat(heartbeat)
    inbox = handler.inbox if isinstance(handler, Mailbox) else None
    if heartbeat is not None and (heartbeat.is_pong is not None or heartbeat.is_ping is not None):
        handler = Screen(handler, heartbeat)
    owner = _Owner(Timing(idle=idle_timeout, heartbeat=heartbeat), outbound)
    conn = make_connection(owner, handler, framing=framing, inbox=inbox)
    protocol: asyncio.BaseProtocol = conn
    if tls is not None or address.scheme == "tls":
        protocol = await owner.secure(conn, address, tls or _TLS)
    try:
        async with asyncio.timeout(timeout):
            await _connect(address, lambda: protocol)
        if owner.secured is not None:
            await owner.secured
    except TimeoutError as error:
        owner.give_up(conn)
        if error.errno is not None:  # the kernel's own
            raise ConnectTimeout(f"cannot connect to {address}: {why(error)}", target=str(address)) from error
        raise ConnectTimeout(f"cannot connect to {address} within {timeout:g} s", target=str(address)) from None
    except OSError as error:
        raise _failed(address, error) from error
    except BaseException:
        owner.give_up(conn)
        raise
    if keepalive is not None and address.scheme != "unix":
        keepalive.apply(conn.transport.get_extra_info("socket"))
    return conn


def dialled(address: str | Address) -> Address:
    """``address``, which can be dialled.

    :raises ValueError: it cannot.
    """
    scheme = address.scheme if isinstance(address, Address) else address.partition("://")[0].lower()
    if scheme == "udp":
        raise ValueError(f"address {address} is not dialled as a stream; dial_datagram is for datagrams")
    if isinstance(address, str):
        return parse_address(address, schemes=("tcp", "tls", "unix"))
    if scheme not in _STREAMS:
        raise ValueError(f"address {address} cannot be dialled; expected tcp, tls or unix")
    return address


def _failed(address: Address, error: OSError) -> ConnectFailed:
    message = f"cannot connect to {address}: {why(error)}"
    if isinstance(error, NoneAnswered) and all(isinstance(one, TimeoutError) for _, one in error.failures):
        return ConnectTimeout(message, target=str(address))
    return ConnectFailed(message, target=str(address))


async def _connect(address: Address, make: Callable[[], asyncio.BaseProtocol]) -> None:
    """Connect, and give the connection to the protocol that ``make`` returns."""
    loop = asyncio.get_running_loop()
    if address.scheme == "unix":
        await loop.create_unix_connection(make, sock=await _connect_unix(address.host))
    elif _is_literal(address.host):
        await loop.create_connection(make, address.host, address.port)
    else:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        await loop.create_connection(make, sock=await connect_first(found))


def _is_literal(host: str) -> bool:
    """Whether ``host`` is an address already, for which there is nothing to look up and nothing to choose."""
    if ":" in host:
        return True
    if not host[-1:].isdigit():
        return False
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


async def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(b"\0" + path[1:].encode() if path.startswith("@") else path)
            except BlockingIOError:  # the server's queue is full, and no event will tell when it is not (connect(2))
                await asyncio.sleep(_RETRY_FULL_QUEUE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


class Mailbox(ConnectionHandler):
    """Makes a dialled connection one of coroutine style: its messages wait in an inbox."""

    def __init__(self, inbound_limit: int) -> None:
        if inbound_limit < 1:
            raise ValueError(f"inbound_limit {inbound_limit}: must be at least 1")
        self.inbox = _ClosingInbox(inbound_limit)

    def on_open(self, conn: Connection) -> None:
        self.inbox.conn = conn

    def on_message(self, conn: Connection, data: Any) -> None:
        if self.inbox.put(data):
            conn.pause_reading()

    def on_eof(self, conn: Connection) -> bool:
        self.inbox.end()
        return False

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.inbox.end()


class _ClosingInbox(Inbox):
    """Closes the connection over bytes that are no message, as a server does when its coroutine returns."""

    __slots__ = ("conn",)

    conn: Connection

    def end(self, error: ForebayError | None = None) -> None:
        if error is not None and not self.ended:  # whoever ends it is not done with the connection
            asyncio.get_running_loop().call_soon(self._close)
        super().end(error)

    def _close(self) -> None:
        self.conn.close(CloseReason.FRAMING, linger=LAST_WORDS)


class _Owner:
    """Owns one connection that is dialled, and its TLS.

    See :class:`~forebay.engine.handler.ConnectionOwner` and :class:`~forebay.engine.tls.LayerOwner`.
    """

    __slots__ = ("address", "is_open", "layer", "outbound", "secured", "ticker", "timing")

    def __init__(self, timing: Timing, outbound: Outbound) -> None:
        self.ticker = ticker()
        self.timing = timing
        self.outbound = outbound
        self.is_open = False
        self.address: Address | None = None
        self.layer: TLSLayer | None = None  # from the moment it is connected
        self.secured: asyncio.Future[None] | None = None  # how the handshake ended

    async def secure(self, conn: Connection, address: Address, tls: ClientTLS) -> TLSLayer:
        """The TLS that goes between ``conn`` and its transport."""
        side = client_side(tls)
        await side.fresh()
        self.address = address
        self.secured = asyncio.get_running_loop().create_future()
        return TLSLayer(conn, side.target(address.host, address.port), self)

    def arrived(self, layer: TLSLayer) -> bool:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        self.layer = layer
        return True

    def left(self, layer: TLSLayer, reason: CloseReason, detail: str) -> None:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        if self.secured is None or self.secured.done():
            return
        kinds = {CloseReason.HANDSHAKE: TLSFailed, CloseReason.HANDSHAKE_TIMEOUT: ConnectTimeout}
        kind = kinds.get(reason, ConnectFailed)
        message = f"cannot connect to {self.address}: the TLS handshake failed: {detail}"
        self.secured.set_exception(kind(message, target=str(self.address)))

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self.is_open = True
        if self.secured is not None and not self.secured.done():
            self.secured.set_result(None)
        return True

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self.is_open = False

    def buffered(self, size: int) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. The connection's own limit is all there is."""

    def dropped(self) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. The connection counts them."""

    def give_up(self, conn: Connection) -> None:
        """Nobody will use the connection, though it may have come about in the very last moment."""
        if self.secured is not None:
            self.secured.cancel()
        if self.is_open:
            conn.abort(CloseReason.TIMEOUT)
            conn.connection_lost(None)  # uvloop does not say so for what it closes itself, as it does when cancelled
        if self.layer is not None:
            self.layer.abort(CloseReason.TIMEOUT)
            self.layer.connection_lost(None)
