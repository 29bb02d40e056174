"""What lies between a listening socket and a connection: nothing, a PROXY header, TLS, or both.

A layer is the protocol of the raw transport until it has done its part; then it connects what is above it. While it
works, the connection counts as come in, but does not exist for handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import structlog

from forebay.engine.address import Address
from forebay.engine.connection import Connection
from forebay.engine.counts import counter, gauge, labelled
from forebay.engine.ends import host_of
from forebay.engine.handler import CloseReason
from forebay.engine.loop import Ticker
from forebay.engine.proxy_protocol import ProxyHeaderReader, ProxyProtocol
from forebay.engine.tls import TLSLayer
from forebay.engine.tls_settings import TLS
from forebay.engine.tls_sides import ServerSide
from forebay.observe.metrics import Family

if TYPE_CHECKING:
    from forebay.wire.proxy_header import ProxyHeader

__all__ = ["Entrance", "Layer"]

log = structlog.get_logger("forebay.engine")


class Layer(Protocol):
    """What the entrance needs of a layer."""

    peer: str
    peer_host: str

    def abort(self, reason: CloseReason) -> None:
        """Cut the raw transport; :meth:`Entrance.left` hears of it."""


class Server(Protocol):
    """What the entrance needs of its server."""

    ticker: Ticker

    def make(self) -> Connection:
        """The protocol object of a new connection."""

    def enter(self, host: str) -> bool:
        """Whether somebody from ``host`` may come in."""

    def move(self, before: str, host: str) -> bool:
        """Whether somebody who came in as of ``before`` may stay as of ``host``."""

    def leave(self, host: str) -> None:
        """Somebody who came in has gone."""

    def failed(self, layer: Layer, reason: CloseReason, detail: str) -> None:
        """Somebody came in, and no connection came about."""


class _Turned(asyncio.Protocol):
    """Stands where a connection would, for somebody who cannot be served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        cast("asyncio.Transport", transport).abort()


class Entrance:
    """The way into a server, for all its addresses. It owns the layers that are still at work."""

    ticker: Ticker  # from the moment it is started

    def __init__(self, server: Server, tls: TLS | None, proxy_protocol: ProxyProtocol | None) -> None:
        self._server = server
        self._side = ServerSide(tls) if tls is not None else None
        self._proxy_protocol = proxy_protocol
        self._arriving: dict[Layer | Connection, str] = {}  # each with the host as which it came in

    async def start(self) -> None:
        """Load certificates, and follow them from now on.

        :raises StartError: one cannot be used.
        """
        self.ticker = self._server.ticker
        if self._side is not None:
            await self._side.start()

    def stop(self) -> None:
        """Cut whoever is still arriving."""
        for layer in list(self._arriving):
            layer.abort(CloseReason.STOPPED)

    async def stopped(self) -> None:
        """Stop following certificates."""
        if self._side is not None:
            await self._side.stop()

    def check(self, address: Address) -> None:
        """Whether connections to ``address`` can be served.

        :raises ValueError: they are to be encrypted, and there is no certificate.
        """
        if address.scheme == "tls" and self._side is None:
            raise ValueError(f"{address} needs tls=TLS(certificates=...)")

    def factory(self, address: Address) -> Callable[[], asyncio.BaseProtocol]:
        """What makes the protocol of each connection that comes to ``address``."""
        side = self._side if address.scheme == "tls" else None
        settings = self._proxy_protocol
        if settings is not None:

            def proxied() -> asyncio.BaseProtocol:
                reader = ProxyHeaderReader(
                    self, settings, lambda transport, header, rest: self._go_on(reader, side, transport, header, rest)
                )
                return reader

            return proxied
        if side is not None:

            def encrypted() -> asyncio.BaseProtocol:
                conn = self._make()
                return TLSLayer(conn, side, self) if conn is not None else _Turned()

            return encrypted
        return lambda: self._make() or _Turned()

    def _make(self) -> Connection | None:
        """A new connection; ``None``: the server's user could not make its handler. The loops must not hear of that:
        asyncio says nothing about it, and uvloop gives up the listening socket."""
        try:
            return self._server.make()
        except Exception as error:
            log.error("handler could not be made", exc_info=error)
            return None

    def _go_on(
        self,
        reader: Layer,
        side: ServerSide | None,
        transport: asyncio.Transport,
        header: ProxyHeader | None,
        rest: bytes,
    ) -> asyncio.BaseProtocol:
        """The PROXY header was read: put TLS or the connection in its place."""
        conn = self._make()
        if conn is None:
            self.left(reader, CloseReason.ERROR, "its handler could not be made")
            turned = _Turned()
            transport.set_protocol(turned)
            transport.abort()
            return turned
        host = self._arriving.pop(reader)
        conn.proxy_header = header
        above = conn if side is None else TLSLayer(conn, side, self, outermost=False)
        self._arriving[above] = host
        transport.set_protocol(above)
        above.connection_made(transport)
        if rest and not transport.is_closing():  # it may have been refused as who it turned out to be
            above.data_received(rest)
        return above

    # What layers call

    def arrived(self, layer: Any) -> bool:
        """Whether a connection may go on."""
        host = host_of((layer.peer_host, 0)) if self._proxy_protocol is None else ""  # who it is for is not known yet
        if not self._server.enter(host):
            return False
        self._arriving[layer] = host
        return True

    def left(self, layer: Any, reason: CloseReason, detail: str) -> None:
        """A layer ended before there was a connection."""
        host = self._arriving.pop(layer, None)
        if host is not None:
            self._server.failed(layer, reason, detail)
            self._server.leave(host)

    # What the server calls

    def let_through(self, conn: Connection) -> bool:
        """Whether a connection may live: one that came through layers has been let in before, by them."""
        if self._arriving:
            host = self._arriving.pop(conn, None)
            if host is None:
                host = self._arriving.pop(cast("Any", conn.transport), None)
            if host is not None:
                return self._server.move(host, conn.peer_host)
        return self._server.enter(conn.peer_host)

    def statistics(self) -> dict[str, Any]:
        """What TLS has counted."""
        return {"tls": self._side.statistics()} if self._side is not None else {}

    def collect(self, name: str) -> list[Family]:
        """The same, as metrics of the server ``name``."""
        if self._side is None:
            return []
        counts = self._side.counts
        return [
            counter("forebay_tls_handshakes", "Handshakes that were finished.", name, counts.handshakes),
            counter("forebay_tls_resumed", "Of these, those that resumed a session.", name, counts.resumed),
            counter("forebay_tls_reloads", "Times that certificates were loaded anew.", name, counts.reloads),
            labelled("forebay_tls_failed", "Handshakes that failed, by cause.", name, "cause", counts.failed),
            gauge("forebay_tls_waiting", "Connections that wait for their turn.", name, self._side.gate.waiting),
        ]
