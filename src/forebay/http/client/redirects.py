"""Where an answer leads on to, and what may be told there (RFC 9110 section 15.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forebay.errors import UpstreamProtocolError
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.request import ClientRequest
from forebay.http.client.sources import EMPTY
from forebay.http.client.url import URL
from forebay.http.headers import MutableHeaders

__all__ = ["CREDENTIALS", "OF_CONTENT", "REDIRECTS", "Find", "Redirects", "method_after", "redirected"]

Find = Callable[[URL, bool], tuple[URL, Endpoint | None]]
"""Where a URL that was redirected to leads, and the endpoint if it is not the URL's own. Also given: whether the server
has named the host, or only the path."""

CREDENTIALS = frozenset(("authorization", "cookie", "proxy-authorization", "x-api-key"))
"""Fields that are for one origin, whatever is said about others."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
"""The statuses that are followed. A 300 leaves a choice, 305 and 306 are of the past, and 304 is none."""

OF_CONTENT = frozenset(
    (
        "content-digest",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-type",
        "digest",
        "expect",
        "last-modified",
        "repr-digest",
        "trailer",
        "transfer-encoding",
    )
)
"""Fields that go when the content does."""

_PASSES = re.compile(r"(?:accept|content|if)-.+|accept|user-agent|range|cache-control|traceparent|tracestate")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MOST = 100
_NAMES_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//")  # RFC 3986 section 4.2
_NOT_ASCII = re.compile(r"[\x80-\xff]")


@dataclass(frozen=True, slots=True)
class Redirects:
    """How redirects are followed.

    :param limit: how many in a row, 0 to 100; 0: they are answers like others. One more is
        :class:`~forebay.errors.TooManyRedirects`, as is every loop.
    :param allow_downgrade: whether ``https`` may lead to ``http``. Else that is an
        :class:`~forebay.errors.UpstreamProtocolError`.
    :param keep_headers: names of fields that another origin is told as well, beside ``accept`` and ``accept-*``,
        ``content-*``, ``user-agent``, ``range``, ``if-*``, ``cache-control``, ``traceparent`` and ``tracestate``. All
        others are for the origin that they were meant for, credentials always: ``http://a`` and ``https://a`` are two.
    :raises ValueError: the limit is out of range, or a name is none, or one of a credential.
    """

    limit: int = 10
    allow_downgrade: bool = False
    keep_headers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= _MOST:
            raise ValueError(f"Redirects limit {self.limit}: must be 0 to {_MOST}")
        if isinstance(self.keep_headers, str):
            raise ValueError(f"Redirects keep_headers {self.keep_headers!r}: must be a list of names")
        names = tuple(name.lower() for name in self.keep_headers)
        for name in names:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"Redirects keep_headers {name!r}: must be the name of a header field")
            if name in CREDENTIALS or name == "host":
                raise ValueError(f"Redirects keep_headers {name!r}: is of one origin, and no other is told it")
        object.__setattr__(self, "keep_headers", names)  # frozen for others


def method_after(status: int, method: str) -> str:
    """The method of the request that a redirect leads to. Where it is another, the content is left behind."""
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        return "GET"
    return method


def _as_it_says(url: URL, named: bool) -> tuple[URL, Endpoint | None]:
    return url, None


def redirected(
    request: ClientRequest,
    status: int,
    location: str | None,
    rules: Redirects,
    first_origin: URL,
    find: Find = _as_it_says,
) -> ClientRequest | None:
    """The request that an answer to ``request`` leads to; None: to none, it is the answer.

    :param location: the field's value, as it was received.
    :param first_origin: the URL of the first request of all, or any of its origin.
    :param find: for those who know servers by other names than their own.
    :raises UpstreamProtocolError: it leads nowhere, or from ``https`` to ``http``, or the content would have to be sent
        again and is not there any more.
    """
    if status not in REDIRECTS or not location:
        return None
    url, endpoint = find(_target(request, status, location), _NAMES_HOST.match(location) is not None)
    if request.url.secure and not url.secure and not rules.allow_downgrade:
        raise _refused(request, status, url, "from https to http, which is not followed (Redirects.allow_downgrade)")
    method, content, idempotent = request.method, request.content, request.idempotent
    leaves = frozenset[str]()
    if status == 303 or method_after(status, method) != method:
        leaves, content, idempotent = OF_CONTENT, EMPTY, None
        method = method_after(status, method)
    elif not content.replayable:
        raise _refused(request, status, url, "but its content cannot be sent twice")
    same = url.same_origin(request.url)
    headers = MutableHeaders()
    for name, value in request.headers.pairs():
        key = name.lower()
        if key not in leaves and (same or key in rules.keep_headers or _PASSES.fullmatch(key)):
            headers.add(name, value)
    return request.copy(
        method=method,
        url=url,
        endpoint=endpoint,
        tried=[],
        headers=headers,
        content=content,
        idempotent=idempotent,
        expect_continue=request.expect_continue and content is not EMPTY,
        foreign=request.foreign or not url.same_origin(first_origin),  # for good: whoever led back chose the path
    )


def _target(request: ClientRequest, status: int, location: str) -> URL:
    try:
        url = request.url.join(_as_sent(location))
    except ValueError as error:
        raise UpstreamProtocolError(f"{request}: redirected with {status} to nowhere: {error}") from None
    if "#" in location or not request.url.fragment:
        return url
    return URL(url.scheme, url.host, url.port, url.authority, url.target, request.url.fragment)  # section 10.2.2


def _as_sent(location: str) -> str:
    """Octets that are not ASCII, which no URL has, are UTF-8 mostly; those that are not stay what they are."""
    if location.isascii():
        return location
    try:
        return location.encode("latin-1").decode()
    except UnicodeDecodeError:
        return _NOT_ASCII.sub(lambda found: f"%{ord(found[0]):02X}", location)
    except UnicodeEncodeError:
        return location  # it did not come as octets


def _refused(request: ClientRequest, status: int, url: URL, why: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"{request}: redirected with {status} to {url}, {why}")
