"""A client for the tests of an application: the real server, the real wire, and no socket."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Unpack

import msgspec

from forebay.engine.connection import Connection
from forebay.engine.loop import now
from forebay.errors import ForebayError, UpstreamProtocolError
from forebay.http.app import App
from forebay.http.client.content import encode_content
from forebay.http.client.cookie_jar import CookieJar
from forebay.http.client.redirects import REDIRECTS
from forebay.http.client.url import URL, Fields, parse_url
from forebay.http.exchange import Application, Exchange
from forebay.http.server import HTTPServer, ServerLimits, ServerTimeouts
from forebay.http.websocket import WebSocketSettings
from forebay.testing.client_connection import ClientConnection, Pool, waiting
from forebay.testing.client_request import ClientRequest, HeaderFields, RequestOptions, header_pairs
from forebay.testing.client_response import ClientResponse
from forebay.testing.client_websocket import ClientWebSocket, WebSocketOpening
from forebay.testing.hosted_asgi import HostedASGI
from forebay.testing.memory_server import MemoryServer, ended

__all__ = ["TestClient"]

_REDIRECTS_AT_MOST = 10
_SCHEME = re.compile("^ws(?=s?://)")


class TestClient:
    """Serves an application and asks it, in one process and without a socket::

        async with TestClient(app, overrides={get_db: fake_db}) as client:
            response = await client.get("/users/1")
            assert response.status == 200

    Requests go through the same server and the same bytes as over a network. Entering starts the application, leaving
    closes every connection, drains and stops it, and waits for that. It may be entered again. Requests may be made by
    any number of tasks of the loop; each under way has a connection, and those that are kept alive are used again.

    :param application: an ``App``, anything with ``on_request``, or an ASGI callable.
    :param overrides: dependencies to replace, put into ``application.overrides`` before the start and taken out after
        the end.
    :param base_url: what paths are relative to. With ``https`` the application is told that the connection is
        encrypted, which it is not. Any other host is answered by the same application.
    :param client: the IP address that the application sees.
    :param headers: of every request, unless the request has others of that name.
    :param raise_errors: raise in the test what a handler raised, instead of the 500 it was answered with.
    :param follow_redirects: whether redirects are followed, up to 10, where the request does not say.
    :param timeout: seconds for each wait: start, end, a whole request, a piece of a stream, a message.
    :param max_connections: open at once for requests; who needs one more waits.
    :param max_body: bytes of a response's content that are read as a whole.
    :param limits: of the server, as are ``timeouts``.
    :raises TypeError: ``application`` is none, or takes no overrides.
    :raises ValueError: an argument makes no sense.

    ``cookies`` is what is kept of the cookies that were sent (:class:`CookieJar`), also from one entering to the next.
    """

    __test__ = False  # pytest: this is no test

    def __init__(
        self,
        application: Any,
        *,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        base_url: str = "http://testserver",
        client: str = "127.0.0.1",
        headers: HeaderFields = (),
        raise_errors: bool = True,
        follow_redirects: bool = False,
        timeout: float = 5.0,
        max_connections: int = 100,
        max_body: int = 64 * 1024 * 1024,
        limits: ServerLimits | None = None,
        timeouts: ServerTimeouts | None = None,
    ) -> None:
        if overrides and not hasattr(application, "overrides"):
            raise TypeError(f"TestClient overrides: {application!r} has no overrides to put them in")
        if not timeout > 0:
            raise ValueError(f"TestClient timeout {timeout}: must be more than 0 seconds")
        if max_connections < 1:
            raise ValueError(f"TestClient max_connections {max_connections}: must be at least 1")
        ip_address(client)
        self.application = application
        self.cookies = CookieJar()
        self.raise_errors = raise_errors
        self.timeout = timeout
        self._served = self._application(application)
        self._overrides = dict(overrides or {})
        self._base = parse_url(base_url)
        self._client = client
        self._headers = header_pairs(headers)
        self._follow = follow_redirects
        self._most = max_connections
        self._max_body = max_body
        self._limits = limits
        self._timeouts = timeouts
        self._life: AsyncExitStack | None = None
        self._server: MemoryServer | None = None
        self._pool: Pool | None = None
        self._websockets: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<TestClient of {self.application!r} {self._base} connections={len(self._pool or ())}>"

    def _application(self, application: Any) -> Application:
        if hasattr(application, "on_request"):
            served: Application = application
            return served
        if not callable(application):
            raise TypeError(f"TestClient cannot serve {application!r}: it has no on_request, and cannot be called")
        return HostedASGI(application, self._failed)

    # Life

    @property
    def server(self) -> HTTPServer:
        """The server, for its counters, and to drain it in a test.

        :raises RuntimeError: outside of ``async with``.
        """
        return self._running()[0]

    def _running(self) -> tuple[MemoryServer, Pool]:
        if self._server is None or self._pool is None:
            raise RuntimeError("the TestClient does not serve: use it in async with TestClient(app) as client")
        return self._server, self._pool

    async def __aenter__(self) -> TestClient:
        if self._life is not None:
            raise RuntimeError("the TestClient serves already")
        async with AsyncExitStack() as life:
            self._put_hooks(life)
            server = MemoryServer(self._served, limits=self._limits, timeouts=self._timeouts, on_failure=self._failed)
            name = server.name
            async with waiting(self.timeout, lambda: f"the application {name} did not start"):
                await server.start()
            self._server = server
            self._pool = Pool(server, self._client, self._most)
            life.push_async_callback(self._stop, server, self._pool)
            self._life = life.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        life, self._life = self._life, None
        if life is not None:
            await life.aclose()

    def _put_hooks(self, life: AsyncExitStack) -> None:
        """Have the application use the overrides, and say what its handlers raise; until the end."""
        application = self.application
        if self._overrides:
            before = dict(application.overrides)

            def restore() -> None:
                application.overrides.clear()
                application.overrides.update(before)

            life.callback(restore)
            application.overrides.update(self._overrides)
        if isinstance(application, App) or hasattr(application, "on_error"):
            told = getattr(application, "on_error", None)

            def on_error(error: Exception, exchange: Exchange) -> None:
                self._failed(error, exchange)
                if told is not None:
                    told(error, exchange)

            life.callback(setattr, application, "on_error", told)
            application.on_error = on_error

    async def _stop(self, server: MemoryServer, pool: Pool) -> None:
        name = server.name
        self._server = self._pool = None
        try:
            async with waiting(self.timeout, lambda: f"the application {name} did not come to rest"):
                for conn in list(self._websockets):
                    conn.abort()
                await pool.close()
                await server.drain()
        finally:
            async with waiting(self.timeout, lambda: f"the application {name} did not shut down"):
                await server.stop()

    def _failed(self, error: BaseException, exchange: Exchange) -> None:
        """The application raised ``error`` for a request: let the one who made it know. Of several the first is what
        led to the others."""
        conn: Any = exchange.conn.transport
        client = conn.peer.get_protocol()
        if isinstance(client, Connection) and isinstance(client.state, ClientConnection | WebSocketOpening):
            client.state.failure = client.state.failure or error

    # Requests

    async def get(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """See :meth:`request`, as for all of these."""
        return await self.request("GET", url, **options)

    async def head(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """The same without content: that of the response is left out by the server."""
        return await self.request("HEAD", url, **options)

    async def options(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """``*`` for a URL asks the server as a whole."""
        return await self.request("OPTIONS", url, **options)

    async def post(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """With ``json=``, ``form=``, ``files=``, ``msgpack=`` or ``content=``."""
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """With content as for :meth:`post`."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """With content as for :meth:`post`."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """It may have content, too."""
        return await self.request("DELETE", url, **options)

    async def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """Make a request and read the response to its end.

        :param url: a path, with or without a query, or a whole URL.
        :param params: fields to add to the query; a list stands for several of its name.
        :param headers: beside the client's, or in place of those of the same name.
        :param cookies: to send beside those that are kept.
        :param content: sent as it is; an async iterable in chunks, as it comes, unless ``headers`` have a
            ``content-length``.
        :param json: or ``msgpack``, ``form``, ``files``: content in that encoding. A file is its content, or ``(name,
            content)``, or ``(name, content, media type)``; ``files`` and ``form`` together are ``multipart/form-data``.
        :param follow_redirects: in place of the client's, as is ``timeout``: seconds for all of it; ``None``: the
            client's.
        :raises DeadlineExceeded: it took longer; says what there was until then. The request is given up, as by a
            client that leaves.
        :raises UpstreamClosed: the server cut the connection before the response was complete.
        :raises UpstreamProtocolError: the response is not well-formed, or redirects too often.
        :raises ConnectFailed: the server drains.
        :raises ValueError: the request is not well-formed.
        :raises TypeError: there is no such option, or it is of another type.
        :raises Exception: with ``raise_errors``, whatever the handler raised.
        """
        seconds = self._seconds(options.get("timeout"))
        until = now() + seconds
        async with self.stream(method, url, **options) as response:
            await response.read_rest(max(0.0, until - now()), seconds)
        return response

    @asynccontextmanager
    async def stream(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AsyncIterator[ClientResponse]:
        """Make a request, and take the content of its response piece by piece: :meth:`ClientResponse.stream`,
        :meth:`ClientResponse.events`. Leaving before its end is leaving the server, as a client does that goes away.

        :param timeout: seconds for the head of the response, and then for each piece. All else, and what is raised, as
            for :meth:`request`.
        """
        seconds = self._seconds(options.get("timeout"))
        follow = options.get("follow_redirects", self._follow)
        request = self._request(method, url, options)
        history: list[ClientResponse] = []
        link: ClientConnection | None = None

        def what() -> str:
            full = f"none of {self._most} connections became free"
            return f"{request}: {full if link is None else 'no response came'}"

        async with AsyncExitStack() as stack:
            async with waiting(seconds, what):
                while True:
                    link = None
                    link = await self._send(request, stack)
                    response = await self._head(link, request, history, seconds)
                    if not follow or response.status not in REDIRECTS or "location" not in response.headers:
                        break
                    if len(history) == _REDIRECTS_AT_MOST:
                        raise UpstreamProtocolError(f"{request}: more than {_REDIRECTS_AT_MOST} redirects")
                    await response.read(seconds)
                    await stack.pop_all().aclose()
                    history = [*history, response]
                    request = request.redirected(response)
            yield response

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _request(self, method: str, url: str, options: RequestOptions) -> ClientRequest:
        known = RequestOptions.__annotations__
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"{method} {url}: there is no option {', '.join(unknown)}; there are {', '.join(known)}")
        content = encode_content(
            options.get("content"),
            options.get("json", msgspec.UNSET),
            options.get("msgpack", msgspec.UNSET),
            options.get("form"),
            options.get("files"),
        )
        headers = self._merged(options.get("headers", ()))
        target = self._url(url, options.get("params"))
        return ClientRequest(method.upper(), target, headers, dict(options.get("cookies") or {}), content)

    def _url(self, url: str, params: Fields | None) -> URL:
        if url == "*":
            return replace(self._base, target="*")
        if url.startswith("/"):
            base = self._base
            url = f"{base.scheme}://{base.authority}{base.path.rstrip('/')}{url}"
        elif "://" not in url:
            raise ValueError(f"URL {url!r}: must be like http://testserver/path, or a path that begins with /")
        return parse_url(url, params)

    def _merged(self, headers: HeaderFields) -> list[tuple[str, str]]:
        own = header_pairs(headers)
        names = {name for name, _ in own}
        return [(name, value) for name, value in self._headers if name not in names] + own

    async def _send(self, request: ClientRequest, stack: AsyncExitStack) -> ClientConnection:
        """Send a request, which is given up when ``stack`` is left."""
        _, pool = self._running()
        url = request.url
        head = request.head(self.cookies)
        link = await pool.take(url.port, secure=url.secure)
        stack.push_async_callback(link.leave)
        link.begin(str(request), request.method, head, request.content, chunked=request.chunked)
        return link

    async def _head(
        self, link: ClientConnection, request: ClientRequest, history: list[ClientResponse], seconds: float
    ) -> ClientResponse:
        try:
            await link.head()
        except ForebayError:
            if self.raise_errors and link.failure is not None:
                raise link.failure from None
            raise
        if self.raise_errors and link.failure is not None and link.status >= 500:
            raise link.failure  # else it is raised where the content ends, or breaks off
        response = ClientResponse(
            link, request.method, request.url, history, seconds, self._max_body, self.raise_errors
        )
        self._keep(response.headers.get_all("set-cookie"), request.url)
        return response

    def _keep(self, lines: list[str], url: URL) -> None:
        for line in lines:
            self.cookies.receive(line, url)

    # WebSockets

    @asynccontextmanager
    async def websocket(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        params: Fields | None = None,
        headers: HeaderFields = (),
        cookies: Mapping[str, str] | None = None,
        settings: WebSocketSettings | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[ClientWebSocket]:
        """Open a WebSocket, and close it in the end.

        :param url: a path, or a whole URL (``http``, ``https``, ``ws`` or ``wss``).
        :param subprotocols: what is offered, the dearest first.
        :param settings: of the client's side.
        :param timeout: seconds for the handshake, and then for each message; ``None``: the client's.
        :raises WebSocketDenied: the server answered with something else; has the answer.
        :raises DeadlineExceeded: it did not answer in time.
        :raises UpstreamClosed: the connection ended before the answer.
        :raises UpstreamProtocolError: the answer opens no WebSocket.
        :raises Exception: with ``raise_errors``, what the application raised, where it tells.
        """
        server, _ = self._running()
        seconds = self._seconds(timeout)
        target = self._url(_SCHEME.sub("http", url), params)
        request = ClientRequest("GET", target, self._merged(headers), dict(cookies or {}))
        fields = request.headers
        if all(name != "cookie" for name, _ in fields) and (sent := request.cookie(self.cookies)):
            fields = [*fields, ("cookie", sent)]
        settings = settings or WebSocketSettings(close_timeout=max(seconds, 0.001))
        opening = WebSocketOpening(
            f"ws{str(target).removeprefix('http')}", settings, fields, subprotocols, seconds, self.raise_errors
        )
        conn = server.connect(
            opening, client=self._client, port=target.port, secure=target.secure, outbound=settings.outbound
        )
        self._websockets.add(conn)
        try:
            async with waiting(seconds, lambda: f"WebSocket {target}: its handshake was not answered"):
                await opening.there.wait()
            ws = opening.ws
            self._keep(opening.cookies(), target)
            if ws is None:
                opening.check()
                raise opening.take_error()
            yield ws
            await ws.close()
            opening.check()
        finally:
            conn.abort()
            self._websockets.discard(conn)
            await ended(conn)
