"""What an ASGI application is told of a request: its connection scope (ASGI 3.0, HTTP and WebSocket messages 2.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

from forebay.engine.connection import Connection
from forebay.errors import ConnectionClosed
from forebay.http.asgi_headers import known_headers
from forebay.http.exchange import Exchange

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication

__all__ = ["ASGI", "ClientDisconnected", "Message", "Receive", "Scope", "Send", "left_with_client", "scope_of"]

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[Any]]
"""An ASGI 3 application."""

_VERSIONS = {"version": "3.0", "spec_version": "2.5"}

# What works for which client. HTTP/1.0 knows neither interim answers nor chunks, and trailers go to clients that ask.
_HTTP10: dict[str, dict[str, Any]] = {"http.response.pathsend": {}}
_HTTP11: dict[str, dict[str, Any]] = {**_HTTP10, "http.response.early_hint": {}}
_TRAILERS: dict[str, dict[str, Any]] = {**_HTTP11, "http.response.trailers": {}}
_WEBSOCKET: dict[str, dict[str, Any]] = {"websocket.http.response": {}}


class ClientDisconnected(ConnectionClosed, OSError):
    """The client is gone, so nothing can be sent to it. An ``OSError``, as the ASGI specification has it."""


def left_with_client(error: BaseException | None) -> bool:
    """Whether ``error`` came of a :class:`ClientDisconnected`, whatever the application made of that."""
    for _ in range(16):
        if error is None:
            return False
        if isinstance(error, ClientDisconnected):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(left_with_client(one) for one in error.exceptions)
        error = error.__cause__ or error.__context__
    return False


class _Ends:
    """What scopes say of a connection; kept with it, since asking for it is dear."""

    __slots__ = ("client", "scheme", "server")

    def __init__(self, conn: Connection) -> None:
        host = conn.peer_host
        known = host not in ("unix", conn.peer)  # without a port it is nobody's address
        self.client = (host, int(conn.peer.rpartition(":")[2])) if known else None
        self.server = _server(conn.local)
        self.scheme = "http" if conn.tls is None else "https"


def _server(local: str) -> tuple[str, int | None] | None:
    if local[:1] in ("/", "@"):
        return local, None  # a UNIX socket
    host, _, port = local.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else None


def scope_of(host: ASGIApplication, exchange: Exchange, kind: Literal["http", "websocket"]) -> Scope:
    """The scope of a request."""
    conn = exchange.conn
    ends = conn.state
    if type(ends) is not _Ends:
        ends = conn.state = _Ends(conn)
    headers = known_headers(exchange.headers)
    raw_path = exchange.raw_path
    path = (raw_path if b"%" not in raw_path else unquote_to_bytes(raw_path)).decode("utf-8", "replace")
    root_path = host.root_path
    if root_path and path != "*":
        path = root_path + path
        raw_path = host.raw_root_path + raw_path
    http11 = exchange.http11
    scope: Scope = {
        "type": kind,
        "asgi": _VERSIONS,
        "http_version": "1.1" if http11 else "1.0",
        "scheme": ends.scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": exchange.query,
        "root_path": root_path,
        "headers": headers.pairs.copy(),
        "client": ends.client,
        "server": ends.server,
        "state": host.state.copy(),
    }
    if kind == "http":
        scope["method"] = exchange.method
        extensions = (_TRAILERS if headers.takes_trailers else _HTTP11) if http11 else _HTTP10
        scope["extensions"] = extensions.copy()
    else:
        scope["scheme"] = "ws" if ends.scheme == "http" else "wss"
        scope["subprotocols"] = [
            token.strip().decode("latin-1")
            for name, value in headers.pairs
            if name == b"sec-websocket-protocol"
            for token in value.split(b",")
            if token.strip()
        ]
        scope["extensions"] = _WEBSOCKET.copy()
    return scope
