"""Requests and responses as handlers see them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack
from contextvars import copy_context
from copy import copy
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from forebay.chain import Handler, Middleware
from forebay.errors import HTTPError
from forebay.http.cookies import Cookies, parse_cookies, set_cookie_value
from forebay.http.encoding import check_json, decode_json, encode_json, parse_query
from forebay.http.exchange import Exchange
from forebay.http.headers import Headers, MutableHeaders
from forebay.http.problems import problem, problem_of
from forebay.wire.http1 import encode_headers

if TYPE_CHECKING:
    from forebay.http.app import App

__all__ = ["BodySource", "HTTPMiddleware", "Next", "Request", "Response", "response_of"]

log = structlog.get_logger("forebay.http")

T = TypeVar("T")

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"


class BodySource:
    """Where a request's content comes from."""

    __slots__ = ()

    async def next_piece(self) -> bytes:
        """The next piece; empty at the end.

        :raises ConnectionClosed: the client is gone.
        """
        raise NotImplementedError


class Request(msgspec.Struct, eq=False, gc=True):  # a Struct is made by C, and that once a request
    """One request. Everything is read from the exchange when it is asked for.

    ``path_params`` has the values bound in the route's pattern, ``mount_params`` those bound in the prefixes of the
    mounts around its application, ``route`` the pattern ("" when no route takes the
    request), ``state`` is free for middleware to leave things for handlers. ``identity`` is who sent it, once
    authentication has found out, else None; ``id`` the request's id, once ``RequestId`` has given it one, else "";
    ``app`` the application that answers.

    ``client`` is the IP address at the other end of the connection, ``scheme`` is ``http`` or ``https``, ``host`` what
    the client calls this server, with its port if it says one. Behind proxies these are the proxy's, until
    ``TrustedProxies`` sets them to what it says of the client.
    """

    exchange: Exchange
    path_params: dict[str, Any] = {}
    route: str = ""
    _source: BodySource | None = None
    _app: App[Any] | None = None
    _body: bytes | None = None
    id: str = ""
    identity: Any = None
    state: dict[str, Any] = {}
    after_response: list[Callable[[], None]] | None = None
    resources: list[AsyncExitStack] | None = None
    closing: bool = False
    """What its handler held is being closed, after a failure: not to be interrupted."""
    root_path: bytes = b""
    mount_params: dict[str, Any] = {}
    _client: str | None = None
    _scheme: str | None = None
    _host: str | None = None
    _query: list[tuple[str, str]] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"

    @property
    def method(self) -> str:
        """``GET``, ``POST``, ..."""
        return self.exchange.method

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return self.exchange.path

    @property
    def raw_path(self) -> bytes:
        """The path as received."""
        return self.exchange.raw_path

    @property
    def query(self) -> list[tuple[str, str]]:
        """The fields of the query, decoded, in order."""
        if self._query is None:
            self._query = parse_query(self.exchange.query)
        return self._query

    @property
    def headers(self) -> Headers:
        """The headers."""
        return Headers(self.exchange.headers)

    @property
    def cookies(self) -> Cookies:
        """The cookies, by name, as sent: neither unquoted nor decoded (RFC 6265 section 4.2)."""
        return parse_cookies(self.exchange.headers)

    @property
    def host(self) -> str:
        """What the client calls this server: host and maybe port."""
        return self._host if self._host is not None else self.exchange.host.decode("latin-1")

    @host.setter
    def host(self, value: str) -> None:
        self._host = value

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self._scheme or self.exchange.scheme

    @scheme.setter
    def scheme(self, value: str) -> None:
        self._scheme = value

    @property
    def client(self) -> str:
        """The IP address of the client; ``unix`` for a UNIX socket."""
        return self._client or self.exchange.client

    @client.setter
    def client(self, value: str) -> None:
        self._client = value

    @property
    def app(self) -> App[Any]:
        """The application.

        :raises RuntimeError: the request was made by hand, without one.
        """
        if self._app is None:
            raise RuntimeError(f"{self!r} belongs to no application")
        return self._app

    @property
    def session(self) -> MutableMapping[str, Any]:
        """The session of the client.

        :raises RuntimeError: there is none: the ``Sessions`` middleware is not in use here.
        """
        try:
            session: MutableMapping[str, Any] = self.state["session"]
        except KeyError:
            raise RuntimeError("request.session needs the Sessions middleware (forebay.http.middleware)") from None
        return session

    @property
    def routed_path(self) -> bytes:
        """The path as received, without ``root_path``, which is where the application is mounted."""
        return self.exchange.raw_path[len(self.root_path) :] or b"/"

    def enter(self, app: App[Any]) -> None:
        """From now on it is a request of ``app``, which is mounted at ``root_path``."""
        self._app = app

    def url_for(self, name: str, /, **params: Any) -> str:
        """The path of the route called ``name`` (``App.url_for``), behind that of the application."""
        return self.base_path + self.app.url_for(name, **params)

    @property
    def base_path(self) -> str:
        """Where the application is, percent-encoded: what the server was told of it, and where it is mounted."""
        return quote(self.exchange.root_path) + self.root_path.decode("latin-1")

    def release(self, stack: AsyncExitStack) -> None:
        """Have ``stack`` closed once the response was sent, or could not be."""
        if self.resources is None:
            self.resources = []
        self.resources.append(stack)

    def note(self, name: str, value: str | int | float | bool | None) -> None:
        """Add a field of one's own to the access log's record of this request."""
        notes = self.exchange.notes
        if notes is None:
            notes = self.exchange.notes = {}
        notes[name] = value

    def after(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call ``function`` once the response was sent, or the client has gone: see :mod:`forebay.http.background`.

        :raises Overloaded: too much of such work waits already; left alone, that is a 503.
        """
        background = self.app.background
        background.reserve()
        if self.after_response is None:
            self.after_response = []
        call = partial(function, *args, **kwargs)
        submit = partial(background.submit, call, request_id=self.id, context=copy_context(), reserved=True)
        self.after_response.append(submit)

    @property
    def trailers(self) -> Headers:
        """The fields behind chunked content, once all of it was read (RFC 9110 section 6.5)."""
        return Headers(self.exchange.trailers)

    def early_hints(self, *links: str) -> None:
        """Tell the client what it will need while the answer is still being made (103, RFC 8297).

        :param links: values of ``link``, as in ``</style.css>; rel=preload; as=style``.
        :raises ValueError: one of them is no field value.
        """
        self.exchange.interim(103, encode_headers([("link", link) for link in links]))

    async def stream(self) -> AsyncIterator[bytes]:
        """The content, piece by piece; once, and not after :meth:`body`. The client waits while nobody asks.

        :raises ConnectionClosed: the client is gone before the content is complete.
        :raises RuntimeError: it was read already.
        """
        if self._body is not None:
            yield self._body
            return
        source, self._source = self._source, None
        if source is None:
            raise RuntimeError("the content of this request was read already")
        while piece := await source.next_piece():
            yield piece

    async def body(self) -> bytes:
        """The whole content. It may be asked for again.

        :raises ConnectionClosed: the client is gone before the content is complete.
        """
        if self._body is None:
            self._body = b"".join([piece async for piece in self.stream()])
        return self._body

    async def text(self) -> str:
        """The content as UTF-8.

        :raises HTTPError: 400, it is not.
        """
        try:
            return (await self.body()).decode()
        except UnicodeDecodeError:
            raise HTTPError(400, "request body is not UTF-8") from None

    async def json(self, kind: Any = Any) -> Any:
        """The content as JSON of type ``kind``.

        :raises HTTPError: 415, 400: it does not say so, or is not JSON.
        :raises ValidationError: 422, it does not fit ``kind``; lists every field.
        """
        check_json(self.exchange.header(b"content-type"))
        return decode_json(await self.body(), msgspec.json.Decoder(kind))


class Response:
    """An answer.

    :param content: a str becomes text, bytes are sent as they are, an async iterable of bytes or str is streamed, None
        is empty, everything else becomes JSON.
    :param status: default 200, and 204 without content.
    :param headers: without those the server sets: ``content-length``, ``transfer-encoding``, ``connection``, ``date``,
        ``server``.
    :param content_type: default as the content demands; a ``content-type`` in ``headers`` comes first.
    :raises ValueError: the status is not 200 to 599.
    """

    __slots__ = ("body", "headers", "status", "stream")

    def __init__(
        self,
        content: Any = None,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        self.stream: AsyncIterable[bytes | str] | None = None
        self.body = b""
        found = TEXT
        if content is None:
            found = ""
        elif isinstance(content, str):
            self.body = content.encode()
        elif isinstance(content, bytes | bytearray | memoryview):
            self.body = bytes(content)
            found = BINARY
        elif isinstance(content, AsyncIterable):
            self.stream = content
            found = BINARY
        else:
            self.body = encode_json(content)
            found = JSON
        self.status = status if status is not None else 204 if content is None else 200
        if not 200 <= self.status <= 599:
            raise ValueError(f"response status {self.status}: must be 200 to 599")
        self.headers = MutableHeaders(headers)
        wanted = content_type or found
        if wanted and "content-type" not in self.headers:
            self.headers["content-type"] = wanted

    @classmethod
    def encoded(cls, status: int, lines: bytes, body: bytes) -> Response:
        """A response from its status, its header lines and its content, as they would be sent."""
        response = cls.__new__(cls)
        response.status = status
        response.body = body
        response.stream = None
        response.headers = MutableHeaders.encoded(lines)
        return response

    def __repr__(self) -> str:
        size = "streamed" if self.stream is not None else f"{len(self.body)} bytes"
        return f"<Response {self.status} {size}>"

    def copy(self) -> Self:
        """The same answer, with headers of its own: for what changes those of one that may be sent again."""
        made = copy(self)
        made.headers = self.headers.copy()
        return made

    def drain(self) -> None:
        """The server drains: a stream without an end of its own comes to one."""

    def set_cookie(
        self,
        name: str,
        value: str = "",
        *,
        max_age: int | None = None,
        expires: datetime | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = True,
        samesite: Literal["strict", "lax", "none"] | None = "lax",
        partitioned: bool = False,
    ) -> None:
        """Have the client keep a cookie (RFC 6265bis). Scripts do not see it, and other sites' forms do not send it,
        unless that is said.

        :param max_age: seconds; with neither it nor ``expires`` the cookie ends with the browser's session.
        :param expires: with a time zone.
        :param samesite: ``none`` needs ``secure``, as does ``partitioned``.
        :raises ValueError: the name, the value or an attribute has characters that a cookie cannot have, or attributes
            contradict each other.
        """
        cookie = set_cookie_value(name, value, max_age, expires, path, domain, secure, httponly, samesite, partitioned)
        self.headers.add("set-cookie", cookie)

    def delete_cookie(
        self,
        name: str,
        *,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        partitioned: bool = False,
    ) -> None:
        """Have the client forget a cookie; ``path``, ``domain`` and ``partitioned`` must be those it was set with."""
        self.set_cookie(name, max_age=0, path=path, domain=domain, secure=secure, partitioned=partitioned)


def response_of(error: BaseException) -> Response:
    """The problem document ``error`` leaves as. One whose own headers cannot be sent is logged, and a 500."""
    try:
        return Response.encoded(*problem_of(error))
    except ValueError as unfit:
        log.error("error cannot be sent", exc_info=unfit)
        return Response.encoded(*problem(500))


Next = Handler[Request, Response]
"""What a middleware calls to go on."""
HTTPMiddleware = Middleware[Request, Response]
"""``async def middleware(request, call_next)``."""
