"""A request of a client, on its way through the middleware to the connection."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any, Self

import msgspec

from forebay.http.client.content import EMPTY, Content
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.secret_fields import SECRETS
from forebay.http.client.settings import Timeouts
from forebay.http.client.url import URL
from forebay.http.headers import MutableHeaders
from forebay.wire.heads import content_length

if TYPE_CHECKING:
    from forebay.http.client.trace import Trace

__all__ = ["IDEMPOTENT", "ClientRequest", "check_method"]

IDEMPOTENT = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))
"""Methods that may be repeated (RFC 9110 section 9.2.2)."""

_FRAMING = frozenset(("content-length", "transfer-encoding"))  # it is for the content to say (RFC 9112 section 6)
_WITH_CONTENT = frozenset(("PATCH", "POST", "PUT"))  # whose empty content is said to be empty (RFC 9110 section 8.6)
_KNOWN = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TIMEOUTS = Timeouts()


def check_method(method: str) -> None:
    """See that it can be sent.

    :raises ValueError: it is no token, or CONNECT, which asks for a tunnel and not for an answer.
    """
    if method not in _KNOWN:
        if not _METHOD.fullmatch(method):
            raise ValueError(f"request method {method!r}: must be a token (RFC 9110 section 9.1)")
        if method.upper() == "CONNECT":
            raise ValueError("request method CONNECT: give the client a proxy= to go through one")


class ClientRequest(msgspec.Struct, eq=False, gc=True):  # a Struct is made by C, and that for each request
    """A request. Middleware may change all of it, or send a :meth:`copy`.

    ``headers`` are without ``host``, unless that is to be another than the URL says, and without what frames the
    content. ``content`` is what is sent: see :class:`~forebay.http.client.content.Content`.

    ``idempotent`` says whether it may be sent twice; None: as the method does, or an ``idempotency-key``.
    ``foreign`` is True after a redirect to another origin than that of the first request, and from the start where the
    client has a base URL and this is not for its origin, nor has ``auth`` of its own: credentials do not belong there.
    ``deadline`` is the moment at which all of it is over, on the clock of :data:`~forebay.engine.loop.now`.
    ``endpoint`` is where it is sent, while a target is picked; None: where ``url`` says. ``tried`` names the targets
    that were picked, the last one last. ``expect_continue`` has the server asked whether it wants the content, before
    that is sent.

    As text, as in errors and logs, it is without what is secret in its URL.
    """

    method: str
    url: URL
    headers: MutableHeaders
    content: Content = EMPTY
    timeouts: Timeouts = _TIMEOUTS
    deadline: float = inf
    idempotent: bool | None = None
    trace: Trace | None = None
    endpoint: Endpoint | None = None
    tried: list[str] = []
    foreign: bool = False
    expect_continue: bool = False
    _state: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<ClientRequest {self}>"

    def __str__(self) -> str:
        return f"{self.method} {SECRETS.url(str(self.url))}"

    @property
    def state(self) -> dict[str, Any]:
        """Free for middleware. Copies, such as those of retries and redirects, share it."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be sent twice."""
        if self.idempotent is not None:
            return self.idempotent
        return self.method in IDEMPOTENT or self.headers.get("idempotency-key") is not None

    @property
    def can_repeat(self) -> bool:
        """Whether it may be sent twice, and can be: its content is still there."""
        return self.content.replayable and self.is_idempotent

    def copy(self, **changes: Any) -> Self:
        """The same, with headers and ``tried`` of its own.

        :param changes: attributes that are to be others.
        """
        state = self.state  # shared from now on
        if "headers" not in changes:
            changes["headers"] = self.headers.copy()
        if "tried" not in changes:
            changes["tried"] = self.tried.copy()
        if "method" in changes:
            check_method(changes["method"])
        return msgspec.structs.replace(self, _state=state, **changes)

    def head(self, endpoint: Endpoint, *, absolute: bool = False, more: bytes = b"") -> bytes:
        """The request line and the header fields, as they are sent, without the empty line.

        :param absolute: the target is the whole URL, as a proxy wants it (RFC 9112 section 3.2.2).
        :param more: further lines.
        :raises ValueError: a header, or the method, is not well-formed.
        """
        headers, content = self.headers, self.content
        target = self.url.target
        if absolute:
            target = endpoint.name if target == "*" else f"{endpoint.name}{target}"  # RFC 9112 section 3.2.4 on "*"
        if self.method not in _KNOWN:  # middleware may have set it
            check_method(self.method)
        lines = headers.encode(owned=_FRAMING)
        host = b"" if headers.has_pairs and "host" in headers else b"host: %b\r\n" % endpoint.authority.encode()
        if content is EMPTY:
            framing = b"content-length: 0\r\n" if self.method in _WITH_CONTENT else b""
        else:
            length = content.length
            framing = b"transfer-encoding: chunked\r\n" if length is None else content_length(length)
            if content.kind and "content-type" not in headers:
                framing += b"content-type: %b\r\n" % content.kind.encode("latin-1")
        return b"%b %b HTTP/1.1\r\n%b%b%b%b" % (self.method.encode(), target.encode(), host, lines, framing, more)
