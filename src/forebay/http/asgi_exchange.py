"""Exchanges that an ASGI server carries instead of ours: requests of its scopes, answers in its messages.

:class:`ASGIExchange` is an :class:`~forebay.http.exchange.Exchange` to whoever answers it. The head of the request is
read once more, by the rules of our own reader, so that paths, hosts and methods mean the same under every server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from forebay.engine.connection import Connection, ConnectionHandler
from forebay.engine.loop import Ticker, ticker
from forebay.engine.settings import Outbound
from forebay.errors import ProtocolError
from forebay.http.application import Receiver
from forebay.http.asgi_scope import Scope
from forebay.http.exchange import Exchange
from forebay.wire.http1 import Fields, HeaderPairs, RequestLine, RequestRules

if TYPE_CHECKING:
    from forebay.http.asgi_link import ASGILink

__all__ = ["ASGIConnection", "ASGIExchange", "read_head"]

_NO_BODY = frozenset((*range(100, 200), 204, 304))  # RFC 9110 section 6.4.1
_NOBODY = Receiver()
_OUTBOUND = Outbound()

_rules = RequestRules()


class Owner:
    """What stands for the server of a connection."""

    __slots__ = ("outbound", "ticker")

    def __init__(self, outbound: Outbound) -> None:
        self.ticker: Ticker = ticker()
        self.outbound = outbound


class ASGIConnection:
    """What a scope says of a connection, under the names a :class:`~forebay.engine.connection.Connection` has for it.

    ``peer_host`` is ``unix`` for a client of a UNIX socket, and ``unknown`` where the server does not tell.
    """

    __slots__ = ("closing", "local", "owner", "peer", "peer_host", "state", "writable")

    tls = identity = credentials = proxy_header = None

    def __init__(self, scope: Scope, outbound: Outbound = _OUTBOUND) -> None:
        client, server = scope.get("client"), scope.get("server")
        unix = bool(server and server[1] is None)
        self.peer_host = str(client[0]) if client and client[0] else "unix" if unix else "unknown"
        self.peer = _joined(client) if client and client[0] else self.peer_host
        self.local = ("unknown" if not server else str(server[0]) if unix else _joined(server)) or "unknown"
        self.owner = Owner(outbound)
        self.state: Any = None
        self.closing = False
        self.writable = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer}>"


def _joined(pair: Any) -> str:
    host, port = str(pair[0]), pair[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ASGIExchange(Exchange, eq=False, gc=True):
    """One request of an ASGI server and the answering of it. What an ASGI server has no way for is left out: trailers,
    and interim answers but 103 where it is offered."""

    @property
    def _to(self) -> ASGILink:
        return cast("ASGILink", self.link)

    @property
    def root_path(self) -> str:
        """As the server says; without a slash at its end."""
        return self._to.root_path

    @property
    def upgrade_to(self) -> bytes:
        """``websocket`` where the server offers one; nothing else can be had."""
        return self._to.upgrades_to

    def attach(self, receiver: Receiver, *, content: bool = True) -> None:
        """As on our server; servers ask for content that waits to be asked for when they are."""
        if content and not self.finished:
            self._to.resume_body()  # before the receiver gets what waits: it may pause
        Exchange.attach(self, receiver, content=content)

    def respond(self, status: int, headers: bytes, body: bytes, *, date: bool = True) -> None:
        """The whole answer at once. ``date`` and ``server`` are the server's."""
        if self.status:
            raise RuntimeError(f"{self!r} is answered already")
        link = self._to
        if self.hooks is not None:
            headers = self.hooks.add_to(headers, self.hook_lines)
        length: int | None = len(body)
        if status in _NO_BODY:
            length, body = None, b""
        elif status == 205:  # RFC 9110 section 15.3.6
            length, body = 0, b""
        elif self.method == "HEAD":
            body = b""
        link.begin(self, status, headers, length)
        self.status = status  # from here on nothing fails
        self.body_sent = len(body)
        self._receiver = _NOBODY
        link.send(body)
        link.finished(self)

    def start(self, status: int, headers: bytes, length: int | None, *, date: bool = True) -> None:
        """Begin an answer whose content follows."""
        if self.status:
            raise RuntimeError(f"{self!r} is answered already")
        if self.hooks is not None:
            headers = self.hooks.add_to(headers, self.hook_lines)
        if status == 205:
            length = 0
        self._left = length
        if status in _NO_BODY:
            length, self._left = None, 0
        if self.method == "HEAD":
            self._left = 0
        self._to.begin(self, status, headers, length)
        self.status = status

    def interim(self, status: int, headers: bytes) -> None:
        """An interim answer: 103, where the server takes it; all others are left out."""
        if not 100 <= status <= 199 or status == 101:
            raise ValueError(f"interim status {status}: must be 100 to 199, and not 101")
        if status == 103 and not self.status and not self.finished:
            self._to.hint(headers)

    def upgrade(self, headers: bytes, handler: ConnectionHandler, *, outbound: Outbound | None = None) -> Connection:
        """Accept a WebSocket."""
        if self.status or self.finished:
            raise RuntimeError(f"{self!r} is answered already")
        if not self.upgrade_to:
            raise RuntimeError(f"{self!r} did not ask for an upgrade")
        self.status = 101
        self._receiver = _NOBODY
        return self._to.upgrade(self, headers, handler, outbound or _OUTBOUND)


def read_head(scope: Scope, method: str, headers: HeaderPairs, root_path: str) -> tuple[RequestLine, Fields]:
    """What the head of a request means to our own server.

    :param root_path: what is taken off its path; there are servers that have done so already.
    :raises ProtocolError: our own server would not accept it.
    """
    raw_path = scope.get("raw_path")
    if raw_path is None:  # it need not be there
        raw_path = quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode()
    raw_path = _below(root_path, raw_path.partition(b"?")[0])
    query = scope.get("query_string") or b""
    target = b"%b?%b" % (raw_path, query) if query else raw_path
    version = b"1.0" if scope.get("http_version") == "1.0" else b"1.1"
    line = b"%b %b HTTP/%b" % (method.encode("latin-1", "replace"), target, version)
    request = _rules.read(line, b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers]) + b"\r\n")
    if len(request[1].headers) != len(headers):
        raise ProtocolError("a header field has the end of a line in it", reason="line-end")
    return request


def _below(root: str, raw_path: bytes) -> bytes:
    for raw_root in (root.encode(), quote(root).encode()) if root else ():
        if raw_path.startswith(raw_root) and raw_path[len(raw_root) : len(raw_root) + 1] in (b"", b"/"):
            return raw_path[len(raw_root) :] or b"/"
    return raw_path
