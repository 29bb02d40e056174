"""What a request may be given, and what one is while it is made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from forebay.chain import Middleware
from forebay.http.client.auth import Basic
from forebay.http.client.content import ContentSource, Fields, Files
from forebay.http.client.redirects import Redirects
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Timeouts
from forebay.http.client.trace import Trace, TraceEvent
from forebay.http.headers import MutableHeaders

__all__ = [
    "Auth",
    "ClientMiddleware",
    "HeaderFields",
    "RequestOptions",
    "Requesting",
    "Tracing",
    "auth_of",
    "check_options",
    "check_timeouts",
    "header_pairs",
    "middleware_of",
    "redirects_of",
    "set_headers",
    "trace_of",
]

ClientMiddleware: TypeAlias = Middleware[ClientRequest, ClientResponse]
"""``async def middleware(request, call_next)``, around each request: each hop of a redirected one."""
HeaderFields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
"""Names and values; in a list a name may come several times."""
Auth: TypeAlias = ClientMiddleware | tuple[str, str]
"""One of :mod:`forebay.http.client.auth`, or user and password for ``Basic``."""
Tracing: TypeAlias = bool | Trace | Callable[[TraceEvent], None]


class RequestOptions(TypedDict, total=False):
    """What a request may have beside its method and URL. See :meth:`Client.request`."""

    params: Fields | None
    headers: HeaderFields | None
    cookies: Mapping[str, str] | None
    content: ContentSource | None
    json: Any
    msgpack: Any
    form: Fields | None
    files: Files | None
    timeouts: Timeouts | None
    auth: Auth | Literal[False] | None
    redirects: Redirects | int | bool | None
    middleware: Sequence[ClientMiddleware] | None
    trace: Tracing | None
    idempotent: bool | None
    expect_continue: bool | None


_OPTIONS = frozenset(RequestOptions.__annotations__)
_FLAGS = ("idempotent", "expect_continue")
_FOLLOW = Redirects()
_NO_REDIRECTS = Redirects(limit=0)


class Requesting(Coroutine[Any, Any, ClientResponse]):
    """A request that is being made, once: to be awaited, made a task of, or entered by ``async with``, which closes the
    response."""

    __slots__ = ("_coroutine", "_response")

    _response: ClientResponse

    def __init__(self, coroutine: Coroutine[Any, Any, ClientResponse]) -> None:
        self._coroutine = coroutine  # made at once: Python tells of one that nobody awaits

    def __await__(self) -> Generator[Any, Any, ClientResponse]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """See :class:`collections.abc.Coroutine`, as for the next two: what a task calls."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """An error is raised where it waits."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """It is not made, or no further."""
        self._coroutine.close()

    async def __aenter__(self) -> ClientResponse:
        self._response = await self._coroutine
        return await self._response.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await self._response.close()


# What is given for them


def check_options(options: RequestOptions) -> None:
    """See that there are no others, and that what decides whether a request is sent twice is no text.

    :raises TypeError: it is not so.
    """
    if not _OPTIONS.issuperset(options):
        unknown = ", ".join(sorted(set(options) - _OPTIONS))
        raise TypeError(f"request option {unknown}: there is none; there are {', '.join(sorted(_OPTIONS))}")
    for name in _FLAGS:
        if not isinstance(flag := options.get(name), bool | None):
            raise TypeError(f"{name} {flag!r:.80}: must be True, False or None")


def check_timeouts(timeouts: Timeouts) -> None:
    """See that they are some.

    :raises TypeError: they are not.
    """
    if not isinstance(timeouts, Timeouts):
        raise TypeError(f"timeouts {timeouts!r:.80}: must be Timeouts, as in Timeouts(total=5)")


def header_pairs(fields: HeaderFields) -> list[tuple[str, str]]:
    """Names and values.

    :raises TypeError: they are neither a mapping nor pairs, or one is not text.
    """
    try:
        pairs = [(name, value) for name, value in (fields.items() if isinstance(fields, Mapping) else fields)]
    except (TypeError, ValueError):
        raise TypeError(
            f"headers of type {type(fields).__name__}: must be a mapping, or pairs of name and value"
        ) from None
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"header {name!r:.80}: must be text, and its value too, not {type(value).__name__}")
    return pairs


def set_headers(headers: MutableHeaders, fields: HeaderFields) -> None:
    """Put ``fields`` in place of those of the same names; one that is there several times is sent as often.

    :raises TypeError: see :func:`header_pairs`.
    """
    given = set()
    for name, value in header_pairs(fields):
        key = name.lower()
        if key in given:
            headers.add(name, value)
        else:
            given.add(key)
            headers[name] = value


def auth_of(auth: Any) -> ClientMiddleware | None:
    """The middleware of an :data:`Auth`, which shows who we are; None for none.

    :raises TypeError: it is none, nor a user and a password.
    :raises ValueError: they cannot be sent.
    """
    if isinstance(auth, tuple) and len(auth) == 2:
        return Basic(*auth)
    if auth is not None and not callable(auth):
        what = type(auth).__name__  # and not its value, which may be a secret
        raise TypeError(f"auth of type {what}: must be (user, password), or as Bearer(token)")
    return auth  # type: ignore[no-any-return]  # whether it is a middleware shows when it is called


def middleware_of(middleware: Any) -> Sequence[ClientMiddleware]:
    """Those that were given.

    :raises TypeError: it is no list of them.
    """
    if not isinstance(middleware, Sequence):
        raise TypeError(f"middleware of type {type(middleware).__name__}: must be a list of them")
    return middleware


def redirects_of(redirects: Redirects | int | bool) -> Redirects:
    """The rules for following them.

    :raises TypeError: it is none of these.
    :raises ValueError: the number is out of range.
    """
    if isinstance(redirects, Redirects):
        return redirects
    if not isinstance(redirects, int):
        raise TypeError(f"redirects {redirects!r:.80}: must be Redirects, how many are followed, True or False")
    if redirects is True:
        return _FOLLOW
    return Redirects(limit=redirects) if redirects else _NO_REDIRECTS


def trace_of(trace: Tracing) -> Trace | None:
    """What a request's steps are told to.

    :raises TypeError: it is none of these.
    """
    if trace is False:
        return None
    if isinstance(trace, Trace):
        return trace
    if trace is not True and not callable(trace):
        raise TypeError(f"trace of type {type(trace).__name__}: must be True, False, a Trace, or what takes its events")
    return Trace(None if trace is True else trace)
