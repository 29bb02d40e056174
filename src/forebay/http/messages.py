"""Requests and responses as handlers see them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

import msgspec

from forebay.errors import HTTPError
from forebay.http.encoding import check_json, decode_json, parse_query
from forebay.http.exchange import Exchange
from forebay.wire.http1 import HeaderPairs, encode_headers

__all__ = ["BodySource", "Headers", "MutableHeaders", "Request", "Response"]

T = TypeVar("T")

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"

_SERVERS = frozenset(("content-length", "transfer-encoding", "connection", "date", "server"))
"""Headers the server sets: what frames a message needs one owner, or two could disagree (RFC 9112 section 6.3)."""

_encode_json = msgspec.json.Encoder().encode


class Headers(Mapping[str, str]):
    """A request's headers: names in any case, values as latin-1 text. Looked up in what the parser left, on demand."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: HeaderPairs) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        """The first value of ``name``."""
        key = name.lower().encode("latin-1", "replace")
        for other, value in self._pairs:
            if len(other) == len(key) and other.lower() == key:
                return value.strip(b" \t").decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1").lower() for name, _ in self._pairs))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"  # values may be secrets

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name``, in order; empty without one."""
        key = name.lower().encode("latin-1", "replace")
        return [value.strip(b" \t").decode("latin-1") for other, value in self._pairs if other.lower() == key]


class MutableHeaders(MutableMapping[str, str]):
    """A response's headers. Assigning replaces every value of a name; :meth:`add` adds one."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self._pairs = list(pairs.items()) if pairs else []

    def __getitem__(self, name: str) -> str:
        """The first value of ``name``, in any case."""
        key = name.lower()
        for other, value in self._pairs:
            if other.lower() == key:
                return value
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        self._remove(name)
        self._pairs.append((name, value))

    def __delitem__(self, name: str) -> None:
        if not self._remove(name):
            raise KeyError(name)

    def _remove(self, name: str) -> bool:
        key = name.lower()
        kept = [pair for pair in self._pairs if pair[0].lower() != key]
        found = len(kept) != len(self._pairs)
        self._pairs = kept
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self._pairs))

    def __bool__(self) -> bool:
        return bool(self._pairs)  # without counting their names

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._pairs})

    def __repr__(self) -> str:
        return f"<MutableHeaders {', '.join(self)}>"

    def add(self, name: str, value: str) -> None:
        """Add a value beside those there are, as ``set-cookie`` needs it."""
        self._pairs.append((name, value))

    def encode(self, without: frozenset[str] = frozenset()) -> bytes:
        """The lines as they are sent, without those the server sets.

        :param without: others that are left out; names in lower case.
        :raises ValueError: a name or value could split the response, or is not latin-1.
        """
        left_out = _SERVERS | without if without else _SERVERS
        return encode_headers([pair for pair in self._pairs if pair[0].lower() not in left_out])


class BodySource:
    """Where a request's content comes from."""

    __slots__ = ()

    async def next_piece(self) -> bytes:
        """The next piece; empty at the end.

        :raises ConnectionClosed: the client is gone.
        """
        raise NotImplementedError


class Request:
    """One request. Everything is read from the exchange when it is asked for.

    ``path_params`` has the values bound in the route's pattern, ``route`` the pattern ("" when no route takes the
    request), ``state`` is free for middleware to leave things for handlers.
    """

    __slots__ = ("_body", "_query", "_source", "exchange", "path_params", "route", "state")

    def __init__(
        self,
        exchange: Exchange,
        path_params: dict[str, Any] | None = None,
        *,
        route: str = "",
        source: BodySource | None = None,
        body: bytes | None = None,
    ) -> None:
        self.exchange = exchange
        self.path_params: dict[str, Any] = path_params if path_params is not None else {}
        self.route = route
        self.state: dict[str, Any] = {}
        self._source = source
        self._body = body
        self._query: list[tuple[str, str]] | None = None

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
    def host(self) -> str:
        """What the client calls this server: host and maybe port."""
        return self.exchange.host.decode("latin-1")

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return self.exchange.scheme

    @property
    def client(self) -> str:
        """The IP address at the other end of the connection."""
        return self.exchange.client

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
            self.body = _encode_json(content)
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
        response.headers = MutableHeaders()
        for line in lines.splitlines():
            name, _, value = line.partition(b": ")
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        return response

    def __repr__(self) -> str:
        size = "streamed" if self.stream is not None else f"{len(self.body)} bytes"
        return f"<Response {self.status} {size}>"
