"""The HTTP/1.1 server: what it allows, what it counts, and its life as a service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import structlog

from forebay.engine.address import Address, parse_address
from forebay.engine.connection import Connection
from forebay.engine.loop import now
from forebay.engine.server import TCPServer
from forebay.engine.settings import Outbound
from forebay.errors import ProtocolError
from forebay.http.connection import HTTPConnection
from forebay.http.exchange import Application
from forebay.observe import Family, Histogram, Sample, Sparing

__all__ = ["HTTPServer", "ServerLimits", "ServerTimeouts"]

log = structlog.get_logger("forebay.http")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may ask of the server. Passing one is answered with the status in brackets, and counted."""

    head: int = 65536
    """Bytes of request line and headers together (431)."""
    line: int = 8192
    """Bytes of the request target (414)."""
    headers: int = 100
    """Header fields of one request (431)."""
    connections: int = 10_000
    """Open connections; one more is closed at once."""
    pipelined: int = 16
    """Requests of one connection that wait for the one before them; past it, reading pauses."""


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """Seconds the server waits for a client, before every wait there is."""

    head: float = 10.0
    """From the first byte of a request to the end of its head; also from connecting to that first byte (408)."""
    idle: float = 75.0
    """Between two requests."""
    body: float = 20.0
    """Between two pieces of a request's content (408)."""
    body_rate: int = 240
    """Bytes a second a request's content must come at on average, after the first ``body`` seconds (408)."""
    write: float = 30.0
    """Without the client taking a single byte of an answer that waits for it."""
    linger: float = 2.0
    """For the client to read an answer that was given before its request was read to the end (RFC 9112 section 9.6)."""


class HTTPServer:
    """Serves an application over HTTP/1.1. A :class:`forebay.service.Service`.

    :param application: an ``App``, the gateway's proxy, or anything with ``on_request``. Its ``startup()`` and
        ``shutdown()`` coroutine functions, where it has them, are called around serving.
    :param bind: ``http://HOST:PORT``, one or several; port 0 picks one, see :attr:`addresses`.
    :param name: for logs and metrics; default the application's.
    :raises StartError: from :meth:`start`: an address cannot be listened on.

    Draining: idle connections close at once, requests in flight are answered with ``connection: close``; one that was
    begun may be finished within ``timeouts.head``.
    """

    def __init__(
        self,
        application: Application,
        *,
        bind: str | Sequence[str],
        name: str | None = None,
        limits: ServerLimits | None = None,
        timeouts: ServerTimeouts | None = None,
    ) -> None:
        self.application = application
        self.name = name or application.name
        self.limits = limits or ServerLimits()
        self.timeouts = timeouts or ServerTimeouts()
        self.requests: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))  # by method and status
        self.durations = Histogram()
        self.refused: dict[int, int] = defaultdict(int)
        self.in_flight = 0
        self.disconnects = 0
        self.aborts = 0
        self.date_until = 0.0
        self.renew_date(now())
        self._sparing = Sparing()
        urls = [bind] if isinstance(bind, str) else list(bind)
        addresses = [parse_address(url, schemes=("http",)) for url in urls]
        self._tcp = TCPServer(
            lambda: HTTPConnection(self),
            bind=[str(Address("tcp", address.host, address.port)) for address in addresses],
            name=self.name,
            max_connections=self.limits.connections,
            idle_timeout=None,
            first_byte_timeout=None,
            outbound=Outbound(timeout=self.timeouts.write, limit=None),
        )

    def __repr__(self) -> str:
        return f"<HTTPServer {self.name} {[str(a) for a in self.addresses]} in flight: {self.in_flight}>"

    @property
    def addresses(self) -> list[Address]:
        """Where the server listens, with the ports that were picked."""
        return [Address("http", address.host, address.port) for address in self._tcp.addresses]

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._tcp.connections

    async def start(self) -> None:
        """Start the application, then listen."""
        await self._application("startup")
        try:
            await self._tcp.start()
        except BaseException:
            await self._application("shutdown")
            raise

    async def drain(self) -> None:
        """Refuse new connections, answer what is in flight, close."""
        await self._tcp.drain()

    async def stop(self) -> None:
        """Cut what is in flight, then stop the application."""
        try:
            await self._tcp.stop()
        finally:
            await self._application("shutdown")

    async def _application(self, step: str) -> None:
        call = getattr(self.application, step, None)
        if call is not None:
            await call()

    def statistics(self) -> dict[str, Any]:
        """The counters as they are now."""
        return {
            "requests": sum(sum(by_status.values()) for by_status in self.requests.values()),
            "in_flight": self.in_flight,
            "refused": sum(self.refused.values()),
            "disconnects": self.disconnects,
            "aborts": self.aborts,
            "connections": self._tcp.statistics(),
        }

    def collect(self) -> list[Family]:
        """Metrics of this server and of its application."""
        server = ("server", self.name)
        families = [
            Family(
                "forebay_http_requests",
                "counter",
                "Requests answered.",
                [
                    Sample("_total", (server, ("method", method), ("status", str(status))), count)
                    for method, by_status in self.requests.items()
                    for status, count in by_status.items()
                ],
            ),
            Family(
                "forebay_http_request_duration_seconds",
                "histogram",
                "From the end of a request's head to the end of its answer.",
                self.durations.samples((server,)),
            ),
            Family(
                "forebay_http_requests_in_flight",
                "gauge",
                "Requests being answered.",
                [Sample("", (server,), self.in_flight)],
            ),
            Family(
                "forebay_http_refused",
                "counter",
                "Requests refused before the application saw them.",
                [Sample("_total", (server, ("status", str(s))), count) for s, count in self.refused.items()],
            ),
            Family(
                "forebay_http_disconnects",
                "counter",
                "Clients gone before their answer was complete.",
                [Sample("_total", (server,), self.disconnects)],
            ),
            Family(
                "forebay_http_aborts",
                "counter",
                "Answers cut because they could not be completed.",
                [Sample("_total", (server,), self.aborts)],
            ),
        ]
        families += self._tcp.collect()
        collect = getattr(self.application, "collect", None)
        if collect is not None:
            families += collect()
        return families

    # -- for the connections

    def renew_date(self, at: float) -> None:
        """Make the ``date`` and ``server`` lines for the second that begins now."""
        self.date_until = at + 1
        self.date_lines = b"date: %b\r\nserver: forebay\r\n" % formatdate(usegmt=True).encode()

    def log_refusal(self, conn: Connection, error: ProtocolError) -> None:
        """Say why, once a second for each peer: whoever sends one bad request often sends many."""
        left_out = self._sparing.due(conn.peer_host, now())
        if left_out is not None:
            log.info(
                "request refused",
                server=self.name,
                peer=conn.peer,
                status=error.status,
                reason=str(error),
                left_out=left_out,
            )
