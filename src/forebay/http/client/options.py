"""What a request may be given, and what one is while it is made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from forebay.chain import Middleware
from forebay.http.client.content import ContentSource, Fields, Files
from forebay.http.client.redirects import Redirects
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Timeouts
from forebay.http.client.trace import Trace, TraceEvent

__all__ = ["Auth", "ClientMiddleware", "HeaderFields", "RequestOptions", "Requesting", "Tracing", "field_pairs"]

ClientMiddleware: TypeAlias = Middleware[ClientRequest, ClientResponse]
"""``async def middleware(request, call_next)``, around each request: each hop of a redirected one."""
HeaderFields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Auth: TypeAlias = ClientMiddleware | tuple[str, str]
"""One of :mod:`forebay.http.client.auth`, or user and password for ``Basic``."""
Tracing: TypeAlias = bool | Trace | Callable[[TraceEvent], None]


class RequestOptions(TypedDict, total=False):
    """What a request may have beside its method and URL. See :meth:`Client.request`."""

    params: Fields | None
    headers: HeaderFields
    cookies: Mapping[str, str] | None
    content: ContentSource | None
    json: Any
    msgpack: Any
    form: Fields | None
    files: Files | None
    timeouts: Timeouts | None
    auth: Auth | None
    redirects: Redirects | int | bool | None
    middleware: Sequence[ClientMiddleware]
    trace: Tracing | None
    idempotent: bool | None
    expect_continue: bool


class Requesting:
    """A request that is being made, once: to be awaited, or entered by ``async with``, which closes the response."""

    __slots__ = ("_coroutine", "_response")

    _response: ClientResponse

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine  # made at once: Python tells of one that nobody awaits

    def __await__(self) -> Generator[Any, Any, ClientResponse]:
        found: Generator[Any, Any, ClientResponse] = self._coroutine.__await__()
        return found

    async def __aenter__(self) -> ClientResponse:
        self._response = await self._coroutine
        return await self._response.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await self._response.close()


def field_pairs(fields: HeaderFields) -> Sequence[tuple[str, str]]:
    """Names and values."""
    return list(fields.items()) if isinstance(fields, Mapping) else fields
