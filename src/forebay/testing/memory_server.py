"""The HTTP server without a listener: connections are made in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from forebay.engine.address import Address
from forebay.engine.certificates import TLSInfo
from forebay.engine.connection import Connection, ConnectionHandler
from forebay.engine.loop import sleep, ticker
from forebay.engine.settings import Outbound
from forebay.engine.timing import UNTIMED
from forebay.errors import ConnectFailed
from forebay.http.exchange import Application, Exchange
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts
from forebay.service import State
from forebay.testing.memory_transport import MemoryTransport, memory_pair

__all__ = ["MemoryServer", "ended", "server_end"]

_TLS = TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "http/1.1", None, False, None)
_FIRST_PORT = 49152  # of those for clients (RFC 6335 section 6)
_PORTS = 65536 - _FIRST_PORT
_PATIENCE = 100  # turns of the loop
_TURNS = 3  # of the loop, from the cancelling of a task to its running
_OUTBOUND = Outbound(limit=None, timeout=None)  # whoever waits has a timeout of their own


class MemoryServer(HTTPServer):
    """An :class:`HTTPServer` that listens nowhere; :meth:`connect` is the way to it.

    :param on_failure: told of what the application raised, and of the request, where the server has to answer for it.
    """

    def __init__(
        self,
        application: Application,
        *,
        limits: ServerLimits | None = None,
        timeouts: ServerTimeouts | None = None,
        on_failure: Callable[[BaseException, Exchange], None] | None = None,
    ) -> None:
        super().__init__(application, bind="http://127.0.0.1:0", limits=limits, timeouts=timeouts)
        self._tcp.bind = []
        self._on_failure = on_failure
        self._numbers = count()

    def connect(
        self, handler: ConnectionHandler, *, client: str, port: int, secure: bool, outbound: Outbound = _OUTBOUND
    ) -> Connection:
        """Connect to the server; the client's end of the connection, whose handler was told of it.

        :param client: the address the server sees at the other end.
        :param port: the server's own.
        :param secure: whether the server takes the connection for one with TLS, of which there is none.
        :raises ConnectFailed: it does not run, or drains.
        """
        if self._tcp.state is not State.RUNNING:
            raise ConnectFailed(f"the test server of {self.name} takes no connections: it is {self._tcp.state}")
        ours = (client, _FIRST_PORT + next(self._numbers) % _PORTS)
        theirs = ("::1" if ":" in client else "127.0.0.1", port)
        extra: dict[str, Any] = {"forebay_tls": _TLS} if secure else {}
        conn = Connection(_Owner(outbound), handler)
        memory_pair(
            conn,
            self._tcp.protocol(Address("tcp", *theirs)),
            client_extra={**extra, "sockname": ours, "peername": theirs},
            server_extra={**extra, "sockname": theirs, "peername": ours},
        )
        return conn

    def log_failure(self, exchange: Exchange) -> None:
        """See :meth:`HTTPServer.log_failure`."""
        super().log_failure(exchange)
        error = sys.exc_info()[1]
        if error is not None and self._on_failure is not None:
            self._on_failure(error, exchange)


class _Owner:
    """Owns one client's end. See :class:`~forebay.engine.handler.ConnectionOwner`."""

    __slots__ = ("outbound", "ticker", "timing")

    def __init__(self, outbound: Outbound) -> None:
        self.ticker = ticker()
        self.timing = UNTIMED
        self.outbound = outbound

    def opened(self, conn: Connection) -> bool:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""
        return True

    def closed(self, conn: Connection) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. Its handler knows."""

    def buffered(self, size: int) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`."""

    def dropped(self) -> None:
        """See :class:`~forebay.engine.handler.ConnectionOwner`. Nothing is."""


def server_end(conn: Connection) -> MemoryTransport:
    """The transport that the server has at the other end of ``conn``."""
    transport = conn.transport
    if not isinstance(transport, MemoryTransport):
        raise TypeError(f"{conn!r} is no connection in memory")
    return transport.peer


async def ended(conn: Connection) -> None:
    """Return when both ends of ``conn``, which closes or was aborted, have heard of it, and a handler that was
    cancelled for it has had its turn. A server that holds on to its end is cut."""
    ours, theirs = conn.transport, server_end(conn)
    turns = 0
    while not (theirs.lost and isinstance(ours, MemoryTransport) and ours.lost):
        turns += 1
        if turns == _PATIENCE:
            ours.abort()
            theirs.abort()
        await sleep(0)
    for _ in range(_TURNS):
        await sleep(0)
