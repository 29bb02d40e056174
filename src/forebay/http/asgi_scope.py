"""What an ASGI application is told of a request: its connection scope (ASGI 3.0, HTTP and WebSocket messages 2.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

from forebay.engine.connection import Connection
from forebay.errors import ConnectionClosed
from forebay.http.asgi_headers import known_headers
from forebay.http.exchange import Exchange

if TYPE_CHECKING:
    from forebay.http.asgi import ASGIApplication

__all__ = ["ASGI", "ClientDisconnected", "Message", "Scope", "left_with_client", "scope_of"]

Scope = dict[str, Any]
Message = dict[str, Any]
ASGI = Callable[[Any, Any, Any], Awaitable[Any]]
"""An ASGI 3 application, called with scope, receive and send: of their types there are several descriptions about
(Starlette's, asgiref's), which do not fit each other."""

_PERCENT = ord("%")  # bytes are searched for a number at a fraction of what bytes cost
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

    __slots__ = ("client", "common")

    def __init__(self, conn: Connection, root_path: str) -> None:
        host = conn.peer_host
        known = host not in ("unix", conn.peer)  # without a port it is nobody's address
        self.client = (host, int(conn.peer.rpartition(":")[2])) if known else None
        self.common = _common("http" if conn.tls is None else "https", _server(conn.local), root_path)


@lru_cache(64)
def _common(scheme: str, server: tuple[str, int | None] | None, root_path: str) -> Scope:
    """The scope of an HTTP/1.1 request as far as others have the same, to be copied: all keys are there, in order."""
    return {
        "type": "http",
        "asgi": _VERSIONS,
        "http_version": "1.1",
        "method": "",
        "scheme": scheme,
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "root_path": root_path,
        "headers": (),
        "client": None,
        "server": server,
        "state": {},
        "extensions": {},
    }


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
        ends = conn.state = _Ends(conn, host.root_path)
    fields = exchange.fields
    headers = known_headers(fields.headers)
    raw_path = exchange.raw_path
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace") if _PERCENT in raw_path else raw_path.decode()
    if host.root_path and path != "*":
        path = host.root_path + path
        raw_path = host.raw_root_path + raw_path
    scope: Scope = ends.common.copy()
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = exchange.query
    scope["headers"] = headers.pairs.copy()
    scope["client"] = ends.client
    scope["state"] = host.state.copy()
    if kind == "http":
        scope["method"] = exchange.method
        if fields.http11:
            scope["extensions"] = (_TRAILERS if headers.takes_trailers else _HTTP11).copy()
        else:
            scope["http_version"] = "1.0"
            scope["extensions"] = _HTTP10.copy()
    else:
        del scope["method"]
        scope["type"] = kind
        scope["scheme"] = "ws" if scope["scheme"] == "http" else "wss"
        scope["subprotocols"] = [
            token.strip().decode("latin-1")
            for name, value in headers.pairs
            if name == b"sec-websocket-protocol"
            for token in value.split(b",")
            if token.strip()
        ]
        scope["extensions"] = _WEBSOCKET.copy()
    return scope
