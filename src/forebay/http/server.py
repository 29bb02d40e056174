"""The HTTP/1.1 server: where it listens, what it counts, and its life as a service."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from email.utils import formatdate
from typing import Any

import structlog

from forebay.engine.address import HTTP_SCHEMES, Address, parse_address
from forebay.engine.handler import ConnectionOwner
from forebay.engine.loop import now
from forebay.engine.proxy_protocol import ProxyProtocol
from forebay.engine.server import TCPServer
from forebay.engine.settings import Admission, Outbound
from forebay.engine.tls_settings import TLS
from forebay.errors import ProtocolError, StartError
from forebay.http.access_log import AccessLog
from forebay.http.connection import HTTPConnection
from forebay.http.exchange import Application, Exchange
from forebay.http.problems import problem_of
from forebay.http.settings import ServerLimits, ServerTimeouts
from forebay.observe import Family, Histogram, Sample, Sparing
from forebay.wire.http1 import METHODS, STATUS_LINES, Fields, RequestLine, RequestRules, content_length

__all__ = ["HTTPServer", "ServerLimits", "ServerTimeouts"]

log = structlog.get_logger("forebay.http")

ALPN = "http/1.1"
"""What is spoken over TLS (RFC 7301 section 6)."""

_ADMISSION = Admission()
_FIELD_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")  # RFC 9110 section 5.5, without obs-text
_NO_LINE: RequestLine = "-", b"-", b"-", b""
_NO_FIELDS = Fields((), b"", True, False, None, False, False, b"")
_TO_ENGINE = {"http": "tcp", "https": "tls"}
_FROM_ENGINE = {"tcp": "http", "tls": "https"}


class HTTPServer:
    """Serves an application over HTTP/1.1. A :class:`forebay.service.Service`.

    :param application: an ``App``, the gateway's proxy, or anything with ``on_request``. Its ``startup()`` and
        ``shutdown()`` coroutine functions, where it has them, are called around serving, and ``drain()`` when all is
        answered.
    :param bind: ``http://HOST:PORT``, ``https://HOST:PORT``, ``unix:///PATH`` or ``fd://N``, one or several; the last
        two are plain HTTP. Port 0 picks one, see :attr:`addresses`.
    :param name: for logs and metrics; default the application's.
    :param limits: what one client may ask for.
    :param timeouts: how long the server waits for clients.
    :param tls: certificates and settings for ``https`` addresses. Without ``alpn`` in it, ``http/1.1`` is offered.
    :param proxy_protocol: which peers say in a PROXY header for whom they connect; that is then the client.
    :param admission: who is let in, beside ``limits.connections``.
    :param server_header: the value of the ``server`` field of answers; ``None``: they have none.
    :param access_log: where a line about each request goes. The server opens and closes it.
    :raises ValueError: an argument makes no sense.

    Counters, beside what :meth:`collect` shows: ``requests`` by method and status, ``refused`` by status and
    ``refused_by`` reason, ``in_flight``, ``disconnects``, ``aborts``, ``deadlines``, ``upgrades``.

    Draining: idle connections close at once, requests in flight are answered with ``connection: close``; one that was
    begun may be finished within ``timeouts.head``.
    """

    def __init__(
        self,
        application: Application,
        *,
        bind: str | Address | Sequence[str | Address],
        name: str | None = None,
        limits: ServerLimits | None = None,
        timeouts: ServerTimeouts | None = None,
        tls: TLS | None = None,
        proxy_protocol: ProxyProtocol | None = None,
        admission: Admission = _ADMISSION,
        server_header: str | None = "forebay",
        access_log: AccessLog | None = None,
    ) -> None:
        if server_header is not None and not _FIELD_VALUE.fullmatch(server_header):
            raise ValueError(
                f"HTTPServer server_header {server_header[:80]!r}: must be 1 to 256 visible ASCII characters, with "
                f"spaces between them only, or None"
            )
        self.application = application
        self.name = name or application.name
        self.limits = limits or ServerLimits()
        self.timeouts = timeouts or ServerTimeouts()
        self.measures = self.limits.requests is not None or self.timeouts.request is not None
        self.rules = RequestRules(
            max_head=self.limits.head,
            max_line=self.limits.line,
            max_field=self.limits.field,
            max_count=self.limits.headers,
            max_trailers=self.limits.trailers,
            max_chunk_line=self.limits.chunk_extensions,
        )
        self.access_log = access_log
        self._opened = AsyncExitStack()  # what is to be closed when it stops
        self.requests = {method: defaultdict[int, int](int) for method in (*sorted(METHODS), "other")}  # by status
        self.durations = Histogram()
        self.refused: dict[int, int] = defaultdict(int)  # by status
        self._refusals: dict[tuple[int, str], int] = defaultdict(int)  # the same, by status and reason
        self.in_flight = 0
        self.disconnects = 0
        self.aborts = 0
        self.deadlines = 0  # answers that were not complete in the time they had
        self.upgrades = 0
        self.context = copy_context()  # what requests begin with
        self.date_until = 0.0
        self._server_line = b"" if server_header is None else b"server: %b\r\n" % server_header.encode()
        self.renew_date(now())
        self._sparing = Sparing()
        self._tls = tls is not None
        addresses = _addresses(bind)
        self._check_tls(addresses)
        self._tcp = TCPServer(
            lambda: HTTPConnection(self),
            bind=[_engine_address(address) for address in addresses],
            name=self.name,
            max_connections=self.limits.connections,
            idle_timeout=None,
            first_byte_timeout=None,
            outbound=Outbound(timeout=self.timeouts.write, limit=None),
            admission=admission,
            tls=None if tls is None else _with_alpn(tls),
            proxy_protocol=proxy_protocol,
        )

    def __repr__(self) -> str:
        return f"<HTTPServer {self.name} {[str(a) for a in self.addresses]} in flight: {self.in_flight}>"

    @property
    def bind(self) -> list[Address]:
        """Where the server is to listen. May be set before it is started.

        :raises ValueError: when set: an address is of another scheme than ``http``, ``https``, ``unix`` and ``fd``.
        """
        return [_http_address(address) for address in self._tcp.bind]

    @bind.setter
    def bind(self, bind: str | Address | Sequence[str | Address]) -> None:
        self._tcp.bind = [_engine_address(address) for address in _addresses(bind)]

    @property
    def addresses(self) -> list[Address]:
        """Where the server listens, with the ports that were picked; for an inherited descriptor, where that does."""
        return [_http_address(address) for address in self._tcp.addresses]

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._tcp.connections

    @property
    def refused_by(self) -> dict[str, int]:
        """Requests refused, by reason: a short, stable word for each, such as ``line-end``."""
        counts: dict[str, int] = defaultdict(int)
        for (_, reason), count in self._refusals.items():
            counts[reason] += count
        return dict(counts)

    async def start(self) -> None:
        """Open the access log, start the application, then listen.

        :raises StartError: an address cannot be listened on, or a certificate cannot be used.
        """
        try:
            self._check_tls(self.bind)  # it may have been given other addresses since it was made
        except ValueError as error:
            raise StartError(f"{self.name}: {error}") from None
        async with AsyncExitStack() as opened:
            if self.access_log is not None:
                self.access_log.start()
                opened.push_async_callback(self.access_log.close)
            await self._application("startup")
            opened.push_async_callback(self._application, "shutdown")
            self.context = copy_context()  # with what the lifespan has set
            await self._tcp.start()
            self._opened = opened.pop_all()

    async def drain(self) -> None:
        """Refuse new connections, answer what is in flight, close."""
        await self._tcp.drain()
        await self._application("drain")

    async def stop(self) -> None:
        """Cut what is in flight, then stop the application, then write what is left of the access log."""
        try:
            await self._tcp.stop()
        finally:
            await self._opened.aclose()

    async def _application(self, step: str) -> None:
        call = getattr(self.application, step, None)
        if call is not None:
            await call()

    def _check_tls(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            if address.scheme == "https" and not self._tls:
                raise ValueError(f"{address} needs a certificate: tls=TLS(Certificate(...))")

    def statistics(self) -> dict[str, Any]:
        """The counters as they are now."""
        return {
            "requests": sum(sum(by_status.values()) for by_status in self.requests.values()),
            "in_flight": self.in_flight,
            "refused": sum(self.refused.values()),
            "refused_by": self.refused_by,
            "disconnects": self.disconnects,
            "aborts": self.aborts,
            "deadlines": self.deadlines,
            "upgrades": self.upgrades,
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
                [
                    Sample("_total", (server, ("status", str(status)), ("reason", reason)), count)
                    for (status, reason), count in self._refusals.items()
                ],
            ),
        ]
        counts = (
            ("disconnects", "Clients gone before their answer was complete.", self.disconnects),
            ("aborts", "Answers cut because they could not be completed.", self.aborts),
            ("deadlines", "Answers that were not complete in the time they had.", self.deadlines),
            ("upgrades", "Connections handed over to another protocol.", self.upgrades),
        )
        families += [
            Family(f"forebay_http_{name}", "counter", text, [Sample("_total", (server,), value)])
            for name, text, value in counts
        ]
        families += self._tcp.collect()
        if self.access_log is not None:
            families += self.access_log.collect()
        collect = getattr(self.application, "collect", None)
        if collect is not None:
            families += collect()
        return families

    # -- for the connections

    def renew_date(self, at: float) -> None:
        """Make the ``date`` and ``server`` lines for the second that begins now."""
        self.date_until = at + 1
        self.date_lines = b"date: %b\r\n%b" % (formatdate(usegmt=True).encode(), self._server_line)

    def refuse(self, link: HTTPConnection, exchange: Exchange | None, error: ProtocolError) -> bytes:
        """The answer to bytes that are not acceptable. They are counted, and the reason is logged once a second for
        each peer: who sends one bad request often sends many.

        :param exchange: the request that they are the content of; ``None``: they are none.
        """
        conn = link.conn
        if self.access_log is not None:
            at = now()
            exchange = exchange or Exchange(link, *_NO_LINE, _NO_FIELDS, False, at)
            exchange.status = error.status
            self.access_log.record(exchange, at)
        self.refused[error.status] += 1
        self._refusals[error.status, error.reason] += 1
        left_out = self._sparing.due(conn.peer_host, now())
        if left_out is not None:
            log.info(
                "request refused",
                server=self.name,
                peer=conn.peer,
                status=error.status,
                reason=error.reason,
                detail=str(error),
                left_out=left_out,
            )
        status, lines, body = problem_of(error)
        length = content_length(len(body))
        return b"".join((STATUS_LINES[status], lines, length, self.date_lines, b"connection: close\r\n\r\n", body))

    def log_failure(self, exchange: Exchange) -> None:
        """Say that the application raised what is being handled."""
        log.exception("application failed", server=self.name, method=exchange.method)

    def log_cut(self, exchange: Exchange, reason: str) -> None:
        """Say that an answer was not completed, and why."""
        log.warning(
            "request cut",
            server=self.name,
            method=exchange.method,
            path=exchange.raw_path.decode("latin-1"),
            status=exchange.status,
            seconds=round(now() - exchange.received_at, 3),
            reason=reason,
        )

    def owner_for(self, outbound: Outbound) -> ConnectionOwner:
        """The engine's owner for a connection that ``outbound`` goes for from now on: one that was upgraded."""
        return self._tcp.owner_for(outbound)


def _addresses(bind: str | Address | Sequence[str | Address]) -> list[Address]:
    many = [bind] if isinstance(bind, str | Address) else list(bind)
    if not many:
        raise ValueError("HTTPServer bind must name an address, as in http://127.0.0.1:8000")
    return [parse_address(str(one), schemes=HTTP_SCHEMES) for one in many]


def _engine_address(address: Address) -> Address:
    return Address(_TO_ENGINE.get(address.scheme, address.scheme), address.host, address.port)


def _http_address(address: Address) -> Address:
    return Address(_FROM_ENGINE.get(address.scheme, address.scheme), address.host, address.port)


def _with_alpn(tls: TLS) -> TLS:
    """``tls`` for HTTP/1.1.

    :raises ValueError: another protocol is to be negotiated, which nobody here would speak.
    """
    if not tls.alpn:
        return dataclasses.replace(tls, alpn=(ALPN,))
    others = [protocol for protocol in tls.alpn if protocol not in (ALPN, "http/1.0")]
    if others:
        raise ValueError(f"HTTPServer tls alpn {others[0]!r}: this server speaks {ALPN} only")
    return tls
