"""Connecting to somebody else's server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import structlog

from forebay.engine.address import Address, join_host_port, parse_address
from forebay.engine.connection import Connection
from forebay.engine.dns_cache import DNSCache, LookupFailed
from forebay.engine.framed import LAST_WORDS, make_connection
from forebay.engine.handler import CloseReason, ConnectionHandler
from forebay.engine.happy_eyeballs import AddressInfo, NoneAnswered, connect_first, why
from forebay.engine.inbox import Inbox
from forebay.engine.loop import now, ticker
from forebay.engine.settings import Heartbeat, Keepalive, Outbound, as_heartbeat
from forebay.engine.timing import Screen, Timing
from forebay.engine.tls import TLSLayer
from forebay.engine.tls_settings import ClientTLS
from forebay.engine.tls_sides import client_side
from forebay.engine.tunnel import Tunnel, TunnelRequest
from forebay.errors import ConnectFailed, ConnectTimeout, ForebayError, TLSFailed, TLSTimeout
from forebay.wire.framing import Framing

__all__ = ["Mailbox", "Resolve", "Watch", "dial", "dialled"]

log = structlog.get_logger("forebay.engine")

Watch = Callable[[str, float, dict[str, Any]], None]
"""Called with a step of dialling, when it was (:func:`forebay.engine.loop.now`) and its details; see :func:`dial`."""

Resolve = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]
"""Finds the addresses of a host name and port. Raises ``OSError`` when there are none."""

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
    watch: Watch | None = None,
    resolve: Resolve | None = None,
    tunnel: Tunnel | None = None,
) -> Connection:
    """Connect to ``address``: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``.

    A name is looked up, and when it has several addresses they are tried by the rules of Happy Eyeballs (RFC 8305): the
    families take turns, the next one starts when one fails or after 250 ms, and the first that answers is kept.

    :param handler: event style; its ``on_open`` was called when this returns. ``None``: coroutine style, messages are
        taken with ``await conn.receive()`` or ``async for message in conn``, and sent with ``await conn.send(...)``.
        Such a connection is closed when the peer ends its side; what it sent before can still be received.
    :param timeout: seconds for finding the host's addresses and connecting to one; with ``tunnel`` until it is there.
    :param tls: how to speak TLS; ``None``: by the defaults of :class:`ClientTLS` on ``tls://``, else not at all. The
        handshake has its own timeout, which begins when the connection is there.
    :param framing: how bytes become messages; ``None``: messages are bytes, cut as they arrive.
    :param idle_timeout: seconds after which the connection is closed when no message came; ``None``: never.
    :param heartbeat: how a peer that is gone is found out, or just the interval in seconds; ``None``: not at all.
    :param outbound: how much may wait to be sent, and what happens then.
    :param inbound_limit: coroutine style: messages that wait to be received, past which nothing more is read.
    :param keepalive: whether the kernel probes a silent peer, and when; ``None``: it does not.
    :param watch: is told of each step as it happens:

        ================== ===========================================================================
        ``dns-start``      ``host``; names only
        ``dns-done``       ``addresses`` (how many), ``cached``; ``error`` when it failed
        ``connect-start``  ``address``; one for each address that is tried
        ``connect-done``   ``address``; ``error`` when it failed or was given up
        ``tls-start``      ``host``
        ``tls-done``       ``version``, ``cipher``, ``alpn``, ``resumed``; or only ``error``
        ``tunnel-start``   ``host`` (with its port), ``proxy``: the proxy is asked
        ``tunnel-done``    ``status``, what it answered; ``error`` when that is not a tunnel
        ================== ===========================================================================
    :param resolve: finds the addresses of names, such as a :class:`~forebay.engine.dns_cache.DNSCache`, which hears
        which of them answer; ``None``: the system does, each time.
    :param tunnel: go through this HTTP proxy. Names are its to look up, ``watch`` hears of the way to it first.

    :raises ConnectFailed: it was refused, is unreachable, or its name is not known. Nothing was sent. The message has
        the reason for each address.
    :raises ConnectTimeout: it did not come about in time. Nothing was sent.
    :raises TLSTimeout: the TLS handshake did not. A :class:`ConnectTimeout`. Nothing was sent.
    :raises ProxyFailed: the proxy answered, and made no tunnel. Nothing was sent to the target.
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
    way = _Way(watch, resolve) if watch is not None or isinstance(resolve, DNSCache) else None
    owner = _Owner(Timing(idle=idle_timeout, heartbeat=heartbeat), outbound, way)
    conn = make_connection(owner, handler, framing=framing, inbox=inbox)
    protocol: asyncio.Protocol = conn
    if tls is not None or address.scheme == "tls":
        protocol = await owner.secure(conn, address, tls or _TLS, outermost=tunnel is None)
    request: TunnelRequest | None = None
    first = address
    if tunnel is not None:
        first = tunnel.address
        request = TunnelRequest(tunnel, address, protocol, owner.tunnelled, None if way is None else way.note)
        protocol = await request.lowest()
    try:
        async with asyncio.timeout(timeout):
            await _connect(first, lambda: protocol, resolve, way)
            if request is not None:
                await request.done
        if owner.secured is not None:
            await _handshake(owner.secured, address, tls or _TLS)
    except TimeoutError as error:
        owner.give_up(conn, request)
        if error.errno is not None:  # the kernel's own
            raise ConnectTimeout(f"{_cannot(address, tunnel)}: {why(error)}", target=str(address)) from error
        if way is not None:
            way.timed_out()
        raise ConnectTimeout(f"{_cannot(address, tunnel)} within {timeout:g} s", target=str(address)) from None
    except OSError as error:
        owner.give_up(conn, request)
        raise _failed(address, tunnel, error) from error
    except BaseException:
        owner.give_up(conn, request)
        raise
    if keepalive is not None and first.scheme != "unix":
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


async def _handshake(secured: asyncio.Future[None], address: Address, tls: ClientTLS) -> None:
    """Wait for the end of a handshake. Its layer has a timeout as well, which comes with the ticker: up to a quarter of
    a second late, which is much for whoever waits."""
    limit = asyncio.timeout(tls.handshake_timeout)
    try:
        async with limit:
            await secured
    except TimeoutError:
        if not limit.expired():
            raise
        message = f"cannot connect to {address}: the TLS handshake failed: not done within {tls.handshake_timeout:g} s"
        raise TLSTimeout(message, target=str(address)) from None


def _cannot(address: Address, tunnel: Tunnel | None) -> str:
    return f"cannot connect to {address}" + (f" through the proxy {tunnel.proxy}" if tunnel is not None else "")


def _failed(address: Address, tunnel: Tunnel | None, error: OSError) -> ConnectFailed:
    message = f"{_cannot(address, tunnel)}: {why(error)}"
    if isinstance(error, NoneAnswered) and all(isinstance(one, TimeoutError) for _, one in error.failures):
        return ConnectTimeout(message, target=str(address))
    if isinstance(error, LookupFailed) and error.timed_out:
        return ConnectTimeout(message, target=str(address))
    return ConnectFailed(message, target=str(address))


async def _connect(
    address: Address, make: Callable[[], asyncio.BaseProtocol], resolve: Resolve | None, way: _Way | None
) -> None:
    """Connect, and give the connection to the protocol that ``make`` returns."""
    loop = asyncio.get_running_loop()
    host, port = address.host, address.port
    if address.scheme == "unix":
        sock = await (_connect_unix(host) if way is None else way.connect_unix(address))
    elif _is_literal(host):
        if way is None:
            await loop.create_connection(make, host, port)
            return
        numeric = socket.AI_NUMERICHOST  # nothing is looked up, so nothing is waited for
        found: Sequence[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
        sock = await connect_first(found, observer=way)
    elif way is not None:
        found, in_order = await way.look_up(host, port)
        sock = await connect_first(found, in_order=in_order, observer=way)
    else:
        sock = await connect_first(_some(await (resolve or _system)(host, port)))
    await loop.create_connection(make, sock=sock)


def _some(found: Sequence[AddressInfo]) -> Sequence[AddressInfo]:
    if not found:
        raise LookupFailed("its host name has no address", unknown=True)
    return found


async def _system(host: str, port: int) -> Sequence[AddressInfo]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return cast("Sequence[AddressInfo]", found)


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


class _Way:
    """Watches how a connection comes about: tells ``watch``, and a :class:`DNSCache` which addresses answered.

    See :class:`~forebay.engine.happy_eyeballs.Observer`.
    """

    __slots__ = ("_cache", "_connected", "_host", "_passed", "_resolve", "_started", "_watch")

    def __init__(self, watch: Watch | None, resolve: Resolve | None) -> None:
        self._watch = watch
        self._connected = False
        self._resolve = resolve or _system
        self._cache = resolve if isinstance(resolve, DNSCache) else None
        self._host = ""  # the name whose addresses are tried; empty: a literal
        self._started: list[AddressInfo] = []  # attempts under way
        self._passed: list[AddressInfo] = []  # attempts that were given up

    def note(self, step: str, detail: dict[str, Any]) -> None:
        """Tell of a step."""
        if self._watch is not None:
            try:
                self._watch(step, now(), detail)
            except Exception:  # it is anybody's function, and called in the middle of the loop
                log.exception("watching a dial failed", step=step)

    async def look_up(self, host: str, port: int) -> tuple[Sequence[AddressInfo], bool]:
        """The addresses of a name, and whether their order is the one to try them in."""
        self._host = host
        self.note("dns-start", {"host": host})
        cached = False
        found: Sequence[AddressInfo]
        try:
            if self._cache is not None:
                found, cached = await self._cache.look_up(host, port)
            else:
                found = _some(await self._resolve(host, port))
        except OSError as error:
            self.note("dns-done", {"addresses": 0, "cached": False, "error": why(error)})
            raise
        self.note("dns-done", {"addresses": len(found), "cached": cached})
        return found, self._cache is not None

    async def connect_unix(self, address: Address) -> socket.socket:
        """Connect to a UNIX socket."""
        detail = {"address": str(address)}
        self.note("connect-start", detail)
        try:
            sock = await _connect_unix(address.host)
        except OSError as error:
            self.note("connect-done", {**detail, "error": why(error)})
            raise
        except asyncio.CancelledError:
            self.note("connect-done", {**detail, "error": _GIVEN_UP})
            raise
        self.note("connect-done", detail)
        return sock

    def started(self, info: AddressInfo) -> None:
        """See :class:`~forebay.engine.happy_eyeballs.Observer`."""
        self._started.append(info)
        self.note("connect-start", {"address": _text(info)})

    def ended(self, info: AddressInfo, error: OSError | None) -> None:
        """See :class:`~forebay.engine.happy_eyeballs.Observer`."""
        detail = {"address": _text(info)}
        if error is not None:
            detail["error"] = why(error)
        self.note("connect-done", detail)
        place = self._started.index(info)
        if self._cache is not None and self._host:
            if error is not None:
                self._cache.failed(self._host, info)
            else:
                self._connected = True
                self._cache.worked(self._host, info)
                for slower in self._started[:place]:  # they had a head start, and a later one was there before them
                    self._cache.failed(self._host, slower)
        del self._started[place]

    def given_up(self, info: AddressInfo) -> None:
        """See :class:`~forebay.engine.happy_eyeballs.Observer`."""
        self._passed.append(info)
        self.note("connect-done", {"address": _text(info), "error": _GIVEN_UP})

    def timed_out(self) -> None:
        """The time is over. Unless it was for a tunnel, nobody has answered."""
        if self._cache is not None and self._host and not self._connected:
            for info in self._passed:
                self._cache.failed(self._host, info)


_GIVEN_UP = "given up"


def _text(info: AddressInfo) -> str:
    return join_host_port(str(info[4][0]), info[4][1])


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

    __slots__ = ("address", "is_open", "layer", "outbound", "secured", "ticker", "timing", "way")

    def __init__(self, timing: Timing, outbound: Outbound, way: _Way | None) -> None:
        self.ticker = ticker()
        self.timing = timing
        self.outbound = outbound
        self.way = way
        self.is_open = False
        self.address: Address | None = None
        self.layer: TLSLayer | None = None  # from the moment it is connected
        self.secured: asyncio.Future[None] | None = None  # how the handshake ended

    async def secure(self, conn: Connection, address: Address, tls: ClientTLS, *, outermost: bool) -> TLSLayer:
        """The TLS that goes between ``conn`` and what is below."""
        side = client_side(tls)
        await side.fresh()
        self.address = address
        self.secured = asyncio.get_running_loop().create_future()
        return TLSLayer(conn, side.target(address.host, address.port), self, outermost=outermost)

    def arrived(self, layer: TLSLayer) -> bool:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        self.layer = layer
        if self.way is not None and self.address is not None:
            self.way.note("tls-start", {"host": self.address.host})
        return True

    def tunnelled(self, protocol: asyncio.Protocol) -> None:
        """There is a tunnel to the target, which ``protocol`` is about to have."""
        if isinstance(protocol, TLSLayer):
            self.arrived(protocol)

    def left(self, layer: TLSLayer, reason: CloseReason, detail: str) -> None:
        """See :class:`~forebay.engine.tls.LayerOwner`."""
        if self.secured is None:
            return
        if self.way is not None:
            self.way.note("tls-done", {"error": _GIVEN_UP if self.secured.done() else detail})
        if self.secured.done():
            return
        kinds = {CloseReason.HANDSHAKE: TLSFailed, CloseReason.HANDSHAKE_TIMEOUT: TLSTimeout}
        kind = kinds.get(reason, ConnectFailed)
        message = f"cannot connect to {self.address}: the TLS handshake failed: {detail}"
        self.secured.set_exception(kind(message, target=str(self.address)))

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self.is_open = True
        if self.secured is not None:
            if not self.secured.done():
                self.secured.set_result(None)
            if self.way is not None and (info := conn.tls) is not None:
                agreed = {"version": info.version, "cipher": info.cipher, "alpn": info.alpn, "resumed": info.resumed}
                self.way.note("tls-done", agreed)
        return True

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        self.is_open = False

    def buffered(self, size: int) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. The connection's own limit is all there is."""

    def dropped(self) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. The connection counts them."""

    def give_up(self, conn: Connection, request: TunnelRequest | None) -> None:
        """Nobody will use the connection, though it may have come about in the very last moment."""
        if self.secured is not None and not self.secured.cancel() and not self.secured.cancelled():
            self.secured.exception()  # else asyncio complains that nobody has seen it
        if self.is_open:
            conn.abort(CloseReason.TIMEOUT)
            conn.connection_lost(None)  # uvloop does not say so for what it closes itself, as it does when cancelled
        if self.layer is not None:
            self.layer.abort(CloseReason.TIMEOUT)
            self.layer.connection_lost(None)
        if request is not None:
            request.give_up()
