"""From a request to an answer over a connection: a pool of them for each server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Any, Protocol

from forebay.engine import ClientTLS, Connection, ConnectionHandler, Outbound, Pool, dial, now
from forebay.engine.dial import Resolve
from forebay.engine.loop import Cancelled, sleep
from forebay.engine.tasks import Tasks
from forebay.engine.tunnel import Tunnel
from forebay.errors import ConnectFailed, ForebayError, UpstreamClosed
from forebay.http.client.connection import ClientConnection
from forebay.http.client.endpoint import Endpoint, endpoint_of
from forebay.http.client.proxies import Proxies, ProxyTarget
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.trace import GIVEN_UP, Step
from forebay.http.client.url import URL
from forebay.policy.deadline import CURRENT, HEADER, encode_header
from forebay.policy.pool_settings import PoolSettings

__all__ = ["Connect", "HTTPTransport", "Transport"]

Connect = Callable[[Endpoint, ConnectionHandler], Awaitable[Connection]]
"""Connects to a server by other means than dialling it."""

_OUTBOUND = Outbound(limit=None, timeout=None)  # whoever sends looks at ``writable``, and has timeouts of its own
_MOST_ENDPOINTS = 10_000
_FOR_EVER = 1e9  # seconds
_EXPECTATION_FAILED = 417
_TIMEOUT_HEADER = HEADER.encode()
_TURNS = 2  # of the loop, from something to be read to its being read
_REPLAYS = 8  # of one request: only the first, unless all connections are always in use


class Transport(Protocol):
    """Sends requests, and returns their answers: what is within all middleware and policies of a client."""

    async def start(self) -> None:
        """Called once, before the first request."""

    async def send(self, request: ClientRequest) -> ClientResponse:
        """The answer to ``request``, once its head is there."""

    async def drain(self) -> None:
        """Take no more requests; return when none is under way."""

    async def stop(self) -> None:
        """End what is still under way, and let go of all there is."""


class HTTPTransport:
    """HTTP/1.1, over connections that are kept.

    :param tls: how to speak TLS under https.
    :param proxies: through which proxies, if any, requests go.
    :param resolve: finds the addresses of names; None: the system does.
    :param connect: in place of dialling.
    """

    def __init__(
        self,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        *,
        tls: ClientTLS | None = None,
        proxies: Proxies | None = None,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        name: str = "http",
    ) -> None:
        self.timeouts = timeouts = timeouts or Timeouts()
        self.limits = limits = limits or Limits()
        self.tasks = Tasks()
        self._tls = replace(
            tls or ClientTLS(), alpn=("http/1.1",), handshake_timeout=timeouts.tls if timeouts.tls else _FOR_EVER
        )
        with_proxy = None if proxies is None else proxies.tls
        self._proxy_tls = replace(
            with_proxy or replace(self._tls, certificate=None, server_hostname=None),
            alpn=(),
            handshake_timeout=self._tls.handshake_timeout,
        )
        self._proxies = proxies
        self._resolve = resolve
        self._connect = connect
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._proxied: dict[Endpoint, ProxyTarget | None] = {}
        dialling = (timeouts.connect or _FOR_EVER) + (timeouts.tls or _FOR_EVER) + 1.0
        self._pool: Pool[Endpoint, ClientConnection] = Pool(
            self._dial,
            ClientConnection.close,
            settings=PoolSettings(
                max_total=limits.connections,
                max_per_key=limits.per_target,
                max_idle=limits.idle,
                idle_timeout=limits.idle_timeout,
                max_lifetime=limits.lifetime,
                check_after=None,
                dial_timeout=min(dialling, _FOR_EVER),
                max_waiting=limits.waiting,
                held_warning=None,
            ),
            name=name,
            is_open=_is_open,
        )
        self.replays = 0

    def __repr__(self) -> str:
        return f"<HTTPTransport {self._pool!r}>"

    # Its life

    async def start(self) -> None:
        """See :class:`Transport`."""
        await self._pool.start()

    async def drain(self) -> None:
        """See :class:`Transport`."""
        await self._pool.drain()

    async def stop(self) -> None:
        """See :class:`Transport`."""
        await self._pool.stop()
        await self.tasks.cancel()

    def statistics(self) -> dict[str, Any]:
        """The pool's, and how many requests were sent again since their kept connection was dead."""
        return self._pool.statistics() | {"replays": self.replays}

    # Requests

    async def send(self, request: ClientRequest) -> ClientResponse:
        """Send ``request`` over a connection of its server, a new one when none is free.

        It is sent again when a kept connection turns out dead before anything came back, and the request may be sent
        twice (RFC 9110 section 9.2.2), which that of a POST may not: over a new connection, or one that somebody has
        used since and hands on, in which case that can happen again.

        :raises PoolExhausted: no connection came free in time.
        :raises UpstreamError: the server cannot be reached, or did not answer.
        :raises DeadlineExceeded: not in time.
        """
        endpoint = request.endpoint or self.endpoint_of(request.url)
        proxy = None if self._proxies is None else self._proxy_of(endpoint)
        head = self._head(request, endpoint, proxy)
        replays, dead_at = 0, -inf
        while True:
            link = await self._acquire(request, endpoint, dead_at)
            try:
                response = await link.ask(request, head, now())
            except UpstreamClosed as error:
                if replays >= _REPLAYS or not link.stale or not request.can_repeat:
                    raise
                if request.trace is not None:
                    request.trace.mark(Step.REPLAY, error=str(error))
                self.replays += 1
                replays += 1
                dead_at = now()
                continue
            if response.status == _EXPECTATION_FAILED and request.expect_continue and request.content.replayable:
                response.discard()
                if request.trace is not None:
                    request.trace.mark(Step.RETRY, status=response.status)
                request = request.copy(expect_continue=False)  # RFC 9110 section 15.5.18
                continue
            return response

    def endpoint_of(self, url: URL) -> Endpoint:
        """The server of ``url``: the same object each time."""
        key = (url.scheme, url.authority)
        found = self._endpoints.get(key)
        if found is None:
            if len(self._endpoints) >= _MOST_ENDPOINTS:
                oldest = self._endpoints.pop(next(iter(self._endpoints)))
                self._proxied.pop(oldest, None)
            found = self._endpoints[key] = endpoint_of(url)
        return found

    def _head(self, request: ClientRequest, endpoint: Endpoint, proxy: ProxyTarget | None) -> bytes:
        more = b""
        until = min(request.deadline, CURRENT.get())
        if until != inf:
            more = b"%b: %b\r\n" % (_TIMEOUT_HEADER, encode_header(max(0.0, until - now())).encode())
        absolute = proxy is not None and not endpoint.secure
        if absolute and proxy is not None and proxy.authorization:
            more += b"proxy-authorization: %b\r\n" % proxy.authorization.encode("latin-1")
        return request.head(endpoint, absolute=absolute, more=more)

    # Connections

    async def _acquire(self, request: ClientRequest, endpoint: Endpoint, dead_at: float) -> ClientConnection:
        """A connection that works as far as is known.

        :param dead_at: when one that was kept was found dead: those that are idle since then may all be.
        """
        pool, trace = self._pool, request.trace
        if trace is not None:
            trace.mark(Step.POOL_WAIT, method=request.method, url=str(request.url))
        link = pool.try_acquire(endpoint)
        began = 0.0
        while link is None or (
            link.exchanges and (link.used_at <= dead_at or (link.has_unread() and not await _settled(link)))
        ):
            if link is not None:
                pool.release(link, reusable=False)  # as old as the one that was dead, and maybe as dead; or spoilt
                link = pool.try_acquire(endpoint)
                continue
            began = began or now()
            wait = inf if request.timeouts.pool is None else began + request.timeouts.pool - now()
            until = min(request.deadline, CURRENT.get())
            try:
                link = await pool.acquire(endpoint, wait, until)
            except Cancelled:
                if trace is not None:
                    trace.mark(Step.FAILED, error=GIVEN_UP)
                raise
            except ForebayError as error:
                if trace is not None:
                    for step in getattr(error, "steps", ()):  # of ConnectFailed
                        trace.watch(*step)
                    trace.mark(Step.FAILED, error=str(error))
                raise
        if trace is not None:
            reused = link.exchanges > 0
            if not reused:
                for step in link.events:
                    trace.watch(*step)
            idle = now() - link.used_at if reused else 0.0
            trace.mark(Step.GOT_CONNECTION, reused=reused, idle=idle, address=link.conn.peer)
        return link

    def gave_back(self, link: ClientConnection, *, reusable: bool) -> None:
        """See :class:`~forebay.http.client.connection.ConnectionUser`."""
        link.used_at = now()
        self._pool.release(link, reusable)

    def lost(self, link: ClientConnection) -> None:
        """See :class:`~forebay.http.client.connection.ConnectionUser`."""
        self._pool.discard(link)

    async def _dial(self, endpoint: Endpoint) -> ClientConnection:
        link = ClientConnection(endpoint, self)
        events: list[tuple[str, float, dict[str, Any]]] = [(Step.DIAL_START, now(), {})]
        link.events = events
        if self._connect is not None:
            await self._connect(endpoint, link)
            return link
        address, tunnel = endpoint.address, None
        tls = self._tls_for(endpoint) if endpoint.secure else None
        proxy = self._proxy_of(endpoint)
        if proxy is not None:
            with_proxy = self._proxy_tls if proxy.address.scheme == "tls" else None
            if endpoint.secure:
                tunnel = Tunnel(proxy.address, proxy.authorization, with_proxy)
            else:
                address, tls = proxy.address, with_proxy
        try:
            await dial(
                address,
                link,
                timeout=self.timeouts.connect or _FOR_EVER,
                tls=tls,
                outbound=_OUTBOUND,
                watch=lambda step, at, detail: events.append((step, at, detail)),
                resolve=self._resolve,
                tunnel=tunnel,
            )
        except ConnectFailed as error:
            error.steps = events
            raise
        return link

    def _tls_for(self, endpoint: Endpoint) -> ClientTLS:
        if endpoint.host != endpoint.address.host and self._tls.server_hostname is None:
            return replace(self._tls, server_hostname=endpoint.host)
        return self._tls

    def _proxy_of(self, endpoint: Endpoint) -> ProxyTarget | None:
        if self._proxies is None or endpoint.address.scheme == "unix":
            return None
        if endpoint not in self._proxied:
            if len(self._proxied) >= _MOST_ENDPOINTS:
                self._proxied.clear()
            self._proxied[endpoint] = self._proxies.of(
                URL(endpoint.scheme, endpoint.host, endpoint.address.port, endpoint.authority, "/")
            )
        return self._proxied[endpoint]


async def _settled(link: ClientConnection) -> bool:
    """Let the loop read what has come over an idle connection. Whether it can be used all the same: what came was TLS's
    own affair, such as a session ticket."""
    try:
        for _ in range(_TURNS):
            await sleep(0)
    except BaseException:
        link.drop()
        raise
    return not (link.conn.closing or link.has_unread())


def _is_open(link: ClientConnection) -> bool:
    return not link.conn.closing
