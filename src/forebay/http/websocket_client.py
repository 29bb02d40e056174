"""The client's side of WebSockets: RFC 6455 section 4.1."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Generator, Sequence
from os import urandom
from typing import Any, TypeVar

from forebay.engine.address import Address
from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.dial import dial
from forebay.engine.inbox import Inbox
from forebay.engine.loop import now
from forebay.engine.loop import timeout as within
from forebay.engine.tasks import Gate
from forebay.engine.tls_settings import ClientTLS
from forebay.errors import (
    ProtocolError,
    RetryClass,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    WebSocketError,
)
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_handler import Mailbox, WebSocketHandler
from forebay.http.websocket_handshake import accept_key, compression_of, list_of, opening_of, values_of
from forebay.http.websocket_settings import check_subprotocols
from forebay.wire.deflate import DeflateParameters, accept_response, offer
from forebay.wire.http1 import STATUS_PHRASES, HeaderPairs, encode_headers
from forebay.wire.responses import ResponseReader

__all__ = ["HandshakeAnswer", "HandshakeRequest", "Offer", "begin", "connect"]

W = TypeVar("W", bound=WebSocket)

_SETTINGS = WebSocketSettings()
_SCHEMES = {"ws": "http", "wss": "https"}
_VISIBLE = re.compile(r"[!-~]*")
_OURS = frozenset(
    (
        "connection",
        "host",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
    )
)


def connect(
    url: str,
    *,
    handler: WebSocketHandler | None = None,
    settings: WebSocketSettings = _SETTINGS,
    headers: Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
    tls: ClientTLS | None = None,
    timeout: float = 10.0,
) -> Connecting:
    """Open a WebSocket: ``ws = await connect(url)``, or ``async with connect(url) as ws``, which closes it at the end.

    :param url: ``ws://host[:port]/path?query`` or ``wss://``.
    :param handler: event style; ``None``: messages are taken with ``await ws.receive()`` or ``async for``.
    :param settings: see :class:`WebSocketSettings`; ``origins`` is for servers.
    :param headers: further header fields of the request, such as ``authorization`` or ``origin``.
    :param subprotocols: what is offered, the dearest first; default those of the settings.
    :param tls: how to speak TLS on ``wss://``; ``None``: by the defaults of :class:`ClientTLS`.
    :param timeout: seconds for all of it: name, connection, TLS, and the server's answer.

    :raises ValueError: the URL, a header or a subprotocol is not well-formed.
    :raises ConnectFailed: no connection came about; see :func:`forebay.engine.dial`.
    :raises UpstreamTimeout: no answer came in time.
    :raises UpstreamClosed: the connection ended before the answer.
    :raises UpstreamProtocolError: the answer is none that opens a WebSocket. Its text has the status.
    """
    return Connecting(HandshakeRequest(url, settings, headers, subprotocols), handler, settings, tls, timeout)


class Connecting:
    """A WebSocket that is being opened, once: to be awaited, or entered by ``async with``."""

    __slots__ = ("_handler", "_request", "_settings", "_timeout", "_tls", "_ws")

    _ws: WebSocket

    def __init__(
        self,
        request: HandshakeRequest,
        handler: WebSocketHandler | None,
        settings: WebSocketSettings,
        tls: ClientTLS | None,
        timeout: float,
    ) -> None:
        self._request = request
        self._handler = handler
        self._settings = settings
        self._tls = tls
        self._timeout = timeout

    def __await__(self) -> Generator[Any, Any, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        self._ws = await self._open()
        return self._ws

    async def __aexit__(self, *exc: object) -> None:
        await self._ws.close()

    async def _open(self) -> WebSocket:
        request = self._request
        until = now() + self._timeout
        answer = HandshakeAnswer(request, self._handler)
        tls = (self._tls or ClientTLS()) if request.address.scheme == "tls" else None
        conn = await dial(request.address, answer, timeout=self._timeout, tls=tls, outbound=self._settings.outbound)
        try:
            async with within(max(0.0, until - now())):
                await answer.there.wait()
        except TimeoutError:
            conn.abort(CloseReason.TIMEOUT)
            message = f"{request.url} did not answer the WebSocket handshake within {self._timeout:g} s"
            raise UpstreamTimeout(message, target=str(request.address)) from None
        except BaseException:
            conn.abort()
            raise
        if answer.ws is None:
            raise answer.take_error()
        return answer.ws


class Offer:
    """What the handshake of a client asks for, and how the answer has to look: RFC 6455 section 4.1.

    :ivar fields: the header fields of the request, without ``host``.
    :raises ValueError: something in it is not well-formed.
    """

    __slots__ = ("_key", "_subprotocols", "fields", "settings")

    def __init__(
        self, settings: WebSocketSettings, headers: Sequence[tuple[str, str]] = (), subprotocols: Sequence[str] = ()
    ) -> None:
        self.settings = settings
        self._key = b64encode(urandom(16))
        check_subprotocols(subprotocols)
        self._subprotocols = tuple(subprotocols) or settings.subprotocols
        self.fields: list[tuple[str, str]] = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", self._key.decode()),
            ("sec-websocket-version", "13"),
        ]
        if self._subprotocols:
            self.fields.append(("sec-websocket-protocol", ", ".join(self._subprotocols)))
        compression = compression_of(settings, "client")
        if compression is not None:
            self.fields.append(("sec-websocket-extensions", offer(compression)))
        for name, value in headers:
            if name.lower() in _OURS:
                raise ValueError(f"header {name!r} belongs to the WebSocket handshake, and is set by it")
            self.fields.append((name, value))

    def make(
        self,
        kind: type[W],
        handler: WebSocketHandler | None,
        target: bytes,
        host: bytes,
        status: int,
        headers: HeaderPairs,
    ) -> W:
        """The WebSocket that an answer opens, once :func:`begin` has given it its connection.

        :param kind: ``WebSocket``, or what is derived from it.
        :param handler: event style; ``None``: its messages are received.
        :param target: path and query of the request.
        :param headers: the answer's.
        :raises WebSocketError: it opens none; says why.
        """
        subprotocol, deflate = self.check(status, headers)
        inbox = None
        if handler is None:
            inbox = Inbox(self.settings.queue)
            handler = Mailbox(inbox)
        raw_path, _, query = target.partition(b"?")
        opening = opening_of(raw_path, query, host, headers)
        return kind("client", handler, inbox, self.settings, opening, subprotocol, deflate)

    def check(self, status: int, headers: HeaderPairs) -> tuple[str | None, DeflateParameters | None]:
        """The subprotocol and the compression an answer agrees to.

        :raises WebSocketError: it opens no WebSocket; says why.
        """
        if status != 101:
            raise WebSocketError(f"it is {status} {STATUS_PHRASES.get(status, '')}".rstrip())
        if [value.lower() for value in values_of(headers, b"upgrade")] != [b"websocket"]:
            raise WebSocketError("its upgrade header must be websocket")
        if "upgrade" not in [option.lower() for option in list_of(headers, b"connection")]:
            raise WebSocketError("its connection header must list upgrade")
        if values_of(headers, b"sec-websocket-accept") != [accept_key(self._key)]:
            raise WebSocketError("its sec-websocket-accept does not fit the key that was sent")
        chosen = values_of(headers, b"sec-websocket-protocol")
        subprotocol = chosen[0].decode("latin-1") if chosen else None
        if len(chosen) > 1 or (subprotocol is not None and subprotocol not in self._subprotocols):
            raise WebSocketError(f"its subprotocol {subprotocol!r} was not offered")
        extensions = values_of(headers, b"sec-websocket-extensions")
        if not extensions:
            return subprotocol, None
        compression = compression_of(self.settings, "client")
        value = b", ".join(extensions).decode("latin-1")
        if compression is None:
            raise WebSocketError(f"its extensions {value!r} were not offered", code=1010)
        return subprotocol, accept_response(value, compression)


def begin(ws: WebSocket, conn: Connection, rest: bytes) -> None:
    """Let ``ws`` have its connection, and ``rest``, which came behind the answer."""
    link = ws.link
    conn.hand_over(link)
    link.on_open(conn)
    if rest and not conn.closing:
        link.on_message(conn, rest)


class HandshakeRequest:
    """What is asked for, and of whom.

    :raises ValueError: something in it is not well-formed.
    """

    __slots__ = ("address", "data", "host", "offer", "target", "url")

    def __init__(
        self,
        url: str,
        settings: WebSocketSettings,
        headers: Sequence[tuple[str, str]],
        subprotocols: Sequence[str],
    ) -> None:
        from forebay.http.client.url import (
            parse_url,  # whose package has the WebSockets of a client, which are made here
        )

        scheme, separator, rest = url.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _SCHEMES or rest[:1] in ("", "/", "?"):
            raise ValueError("WebSocket URL: must begin with ws:// or wss://, and a host")
        found = parse_url(f"{_SCHEMES[scheme]}://{rest}")
        if "#" in rest or not _VISIBLE.fullmatch(rest):
            raise ValueError(f"WebSocket URL {url!r}: must be visible ASCII without a fragment (RFC 6455 section 3)")
        self.url = f"{scheme}://{found.authority}{found.path}"  # the query may be a secret
        self.address = Address("tls" if found.secure else "tcp", found.host, found.port)
        host = found.authority
        self.host = host.encode()
        self.target = found.target.encode()
        self.offer = Offer(settings, headers, subprotocols)
        self.data = b"GET %b HTTP/1.1\r\n%b\r\n" % (
            self.target,
            encode_headers([("host", host), *self.offer.fields]),
        )


class HandshakeAnswer(ConnectionHandler):
    """Sends the request and waits for the answer, after which the connection is the WebSocket's."""

    __slots__ = ("_error", "_handler", "_head", "_reader", "_request", "there", "ws")

    _reader: ResponseReader

    def __init__(self, request: HandshakeRequest, handler: WebSocketHandler | None) -> None:
        self._request = request
        self._handler = handler
        self._head: tuple[int, HeaderPairs] | None = None
        self.there = Gate()
        self.ws: WebSocket | None = None
        self._error: UpstreamProtocolError | None = None

    def take_error(self) -> UpstreamError:
        """Why it opens no WebSocket, once: an error that is raised should not be kept by what its traceback refers
        to."""
        request = self._request
        error, self._error = self._error, None
        return error or UpstreamClosed(
            f"{request.url} closed the connection before it answered the WebSocket handshake",
            target=str(request.address),
        )

    # What the connection calls

    def on_open(self, conn: Connection) -> None:
        self._reader = ResponseReader(self)
        self._reader.expect("GET", upgrade=True)
        conn.write(self._request.data)

    def on_message(self, conn: Connection, data: bytes) -> None:
        try:
            try:
                self._reader.feed(data)
            except ProtocolError:
                if self._head is not None:
                    self._request.offer.check(*self._head)  # says more about what is wrong
                raise
            if self._head is not None:
                self._answered(conn, *self._head)
        except (ProtocolError, WebSocketError) as error:
            request = self._request
            message = f"the answer of {request.url} opens no WebSocket: {error}"
            status = 0 if self._head is None else self._head[0]
            retry = RetryClass.MAYBE if status == 429 or status >= 500 else None  # these blame the moment
            self._error = UpstreamProtocolError(message, target=str(request.address), retry=retry)
            conn.close()

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self._reader.close()
        self.there.open()

    # What the reader calls

    def on_head(self) -> None:
        status = self._reader.status
        if status == 101 or status >= 200:
            self._head = status, self._reader.headers

    def on_body(self, data: bytes) -> None:
        """The content of a refusal is of no interest."""

    def on_end(self) -> None:
        """Nor is its end."""

    def _answered(self, conn: Connection, status: int, headers: HeaderPairs) -> None:
        request = self._request
        ws = self.ws = request.offer.make(WebSocket, self._handler, request.target, request.host, status, headers)
        rest = self._reader.rest
        self._reader.close()
        self.there.open()
        begin(ws, conn, rest)
