"""A test client's WebSockets: the real ones, with a timeout on every wait."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.engine.connection import Connection
from forebay.errors import UpstreamError, UpstreamProtocolError
from forebay.http.headers import Headers
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import HandshakeAnswer, HandshakeRequest, begin
from forebay.testing.client_connection import waiting
from forebay.wire.http1 import STATUS_PHRASES, HeaderPairs

__all__ = ["ClientWebSocket", "WebSocketDenied", "WebSocketOpening"]

_CONTENT_AT_MOST = 1 << 20  # bytes of a refusal


class WebSocketDenied(UpstreamProtocolError):
    """The server answered the handshake with something else than a WebSocket: ``status``, ``headers``, ``body``."""

    def __init__(self, message: str, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = body


class ClientWebSocket(WebSocket):
    """A client's :class:`~forebay.http.WebSocket` whose waits end after ``timeout`` seconds each."""

    __slots__ = ("opening", "timeout")

    timeout: float
    opening: WebSocketOpening

    async def receive(self, timeout: float | None = None) -> str | bytes:
        """The next message.

        :param timeout: seconds to wait for it; ``None``: the request's.
        :raises ConnectionClosed: none will come. See :meth:`WebSocket.receive`.
        :raises DeadlineExceeded: it did not come in time.
        """
        try:
            return await self._next(self.timeout if timeout is None else timeout)
        except StopAsyncIteration:
            raise self._closed_error() from None

    def __aiter__(self) -> ClientWebSocket:
        return self

    async def __anext__(self) -> str | bytes:  # type: ignore[override]  # as awaitable, but no generator
        return await self._next(self.timeout)

    async def _next(self, seconds: float) -> str | bytes:
        async with waiting(seconds, lambda: f"WebSocket {self.path}: no message came"):
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                self.opening.check()
                raise

    async def wait_closed(self, timeout: float | None = None) -> int:
        """Wait until the server has closed; its close code. Messages that come before are dropped.

        :param timeout: seconds; ``None``: the request's.
        :raises DeadlineExceeded: it took longer.
        """
        seconds = self.timeout if timeout is None else timeout
        async with waiting(seconds, lambda: f"WebSocket {self.path}: it was not closed"):
            while self.open:
                try:
                    await super().__anext__()
                except StopAsyncIteration:
                    break
            await super().close()
        self.opening.check()
        return self.close_code or 0


class WebSocketOpening(HandshakeAnswer):
    """Sends the handshake and waits for the answer; keeps a refusal."""

    __slots__ = ("_body", "_complete", "_raises", "_timeout", "failure")

    ws: ClientWebSocket | None

    def __init__(
        self,
        url: str,
        settings: WebSocketSettings,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
        timeout: float,
        raise_errors: bool,
    ) -> None:
        super().__init__(HandshakeRequest(url, settings, headers, subprotocols), None)
        self._timeout = timeout
        self._raises = raise_errors
        self._body = b""
        self._complete = False
        self.failure: BaseException | None = None  # what the application has raised

    def check(self) -> None:
        """Raise what the application has raised."""
        if self._raises and self.failure is not None:
            raise self.failure

    def cookies(self) -> list[str]:
        """What the answer sets, unparsed."""
        return Headers(self._head[1]).get_all("set-cookie") if self._head is not None else []

    def take_error(self) -> UpstreamError:
        """See :meth:`HandshakeAnswer.take_error`."""
        head = self._head
        if head is None or head[0] == 101:
            return super().take_error()
        request, (status, headers) = self._request, head
        what = f"{status} {STATUS_PHRASES.get(status, '')}".rstrip()
        return WebSocketDenied(f"{request.url} opens no WebSocket: {what}", status, Headers(headers), self._body)

    def on_open(self, conn: Connection) -> None:
        conn.state = self
        super().on_open(conn)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_end(self) -> None:
        self._complete = True

    def _answered(self, conn: Connection, status: int, headers: HeaderPairs) -> None:
        if status != 101:
            if self._complete or len(self._body) > _CONTENT_AT_MOST:
                conn.close()
            return
        request = self._request
        ws = self.ws = request.offer.make(ClientWebSocket, None, request.target, request.host, status, headers)
        ws.opening, ws.timeout = self, self._timeout
        rest = self._reader.rest
        self._reader.close()
        self.there.open()
        begin(ws, conn, rest)
