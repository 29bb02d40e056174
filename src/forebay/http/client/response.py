"""What a client is answered."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import structlog

from forebay.engine import Connection
from forebay.errors import ContentTooLarge, ContentUndecodable, UpstreamStatus
from forebay.http.client.arriving import Arriving
from forebay.http.client.decoding import ContentDecoder, content_decoder
from forebay.http.client.request import ClientRequest
from forebay.http.client.settings import Limits
from forebay.http.cookies import Cookies
from forebay.http.headers import Headers
from forebay.http.messages import BodySource
from forebay.wire.heads import STATUS_PHRASES, HeaderPairs, find_header

if TYPE_CHECKING:
    from forebay.http.client.connection import ClientConnection
    from forebay.http.client.trace import Trace
    from forebay.http.client.url import URL

__all__ = ["ClientResponse", "Tap"]

log = structlog.get_logger("forebay.client")

_CHARSET = re.compile(r"""charset=["']?([^\s"';]+)""", re.IGNORECASE)
_LIMITS = Limits()


class Tap(Protocol):
    """Sees content go by."""

    def piece(self, data: bytes) -> None:
        """A piece came."""

    async def end(self) -> None:
        """That was all of it."""


class ClientResponse:
    """An answer: its head is there, its content comes when it is asked for. It holds a connection until all of that was
    taken, or it is closed: ``async with client.get(...) as response`` does, and :meth:`read` and its kin take all.

    ``status``; ``headers``; ``request``, which led to it (its ``url`` may be that of a redirect); ``history``, the
    redirects before it; ``interim``, answers before it (1xx) as status and headers.
    """

    __slots__ = (
        "_content",
        "_decodes",
        "_entered",
        "_http11",
        "_limits",
        "_link",
        "_pairs",
        "_reason",
        "_source",
        "_taken",
        "_tap",
        "_trailers",
        "history",
        "interim",
        "request",
        "status",
    )

    def __init__(
        self,
        request: ClientRequest,
        status: int,
        headers: HeaderPairs,
        limits: Limits = _LIMITS,
        interim: Sequence[tuple[int, Headers]] = (),
        reason: bytes = b"",
        http11: bool = True,
    ) -> None:
        self.request = request
        self.status = status
        self.history: tuple[ClientResponse, ...] = ()
        self.interim = interim
        self._pairs = headers
        self._limits = limits
        self._reason = reason
        self._http11 = http11
        self._content: bytes | None = None
        self._source: BodySource | None = None
        self._link: ClientConnection | None = None
        self._decodes = True
        self._taken = self._entered = False
        self._tap: Tap | None = None
        self._trailers: HeaderPairs = ()

    @classmethod
    def made(
        cls,
        request: ClientRequest,
        status: int,
        headers: Sequence[tuple[str, str]] = (),
        content: bytes | AsyncIterable[bytes] = b"",
        *,
        limits: Limits = _LIMITS,
    ) -> ClientResponse:
        """An answer without a server: of a middleware, or a test.

        :param content: as it is, whatever ``content-encoding`` says.
        :raises ValueError: the status is not 200 to 599.
        """
        if not 200 <= status <= 599:
            raise ValueError(f"response status {status}: must be 200 to 599")
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        response = cls(request, status, pairs, limits)
        response._decodes = False
        if isinstance(content, AsyncIterable):
            response._source = _Given(content)
        else:
            response._content = content
        return response

    # What the connection gives it

    def got(self, content: bytes, trailers: HeaderPairs) -> None:
        """All of the content is there."""
        self._trailers = trailers
        if content and find_header(self._pairs, b"content-encoding") is not None:
            self._source = _Whole(content)
        else:
            self._content = content

    def comes_from(self, arriving: Arriving) -> None:
        """The content is on its way."""
        self._source = arriving

    def switched(self, link: ClientConnection) -> None:
        """The connection is none of HTTP any more."""
        self._source = None
        self._content = b""
        self._link = link

    def when_failed(self, tell: Callable[[BaseException], None]) -> None:
        """Have ``tell`` called when the content that is still to come does not: for those who judge the server."""
        if isinstance(self._source, Arriving):
            self._source.on_failed = tell

    # The head

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {self.request.method} {self.request.url}>"

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return Headers(self._pairs)

    @property
    def fields(self) -> HeaderPairs:
        """The header fields as they came, in order."""
        return self._pairs

    @property
    def url(self) -> URL:
        """Where it comes from, after redirects."""
        return self.request.url

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def reason(self) -> str:
        """The reason phrase, which means nothing (RFC 9112 section 4): the server's, else the usual one."""
        return self._reason.decode("latin-1") or STATUS_PHRASES.get(self.status, "")

    @property
    def http_version(self) -> str:
        """``1.1`` or ``1.0``: the server's."""
        return "1.1" if self._http11 else "1.0"

    @property
    def content(self) -> bytes | None:
        """The whole content, decompressed, where it is there already: it was read, or came with the head. None: it is
        for :meth:`read` to wait for."""
        return self._content

    @property
    def trace(self) -> Trace | None:
        """What happened when, where that was asked for."""
        return self.request.trace

    @property
    def trailers(self) -> Headers:
        """The fields behind chunked content, once all of it was taken (RFC 9110 section 6.5)."""
        source = self._source
        return Headers(source.trailers if isinstance(source, Arriving) else self._trailers)

    @property
    def cookies(self) -> Cookies:
        """The cookies that this answer sets, by name; those it deletes have the value ""."""
        pairs = (line.partition(";")[0].partition("=") for line in self.headers.get_all("set-cookie"))
        return {name.strip(" \t"): value.strip(" \t") for name, _, value in pairs}

    def raise_for_status(self) -> Self:
        """Itself, where the status is below 400.

        :raises UpstreamStatus: it is not.
        """
        if self.status < 400:
            return self
        message = f"{self.request}: {self.status} {self.reason}".rstrip()
        raise UpstreamStatus(message, answered=self.status, response=self, target=self.request.url.origin)

    # The whole content

    async def read(self) -> bytes:
        """The whole content, decompressed. It may be asked for again.

        :raises ContentTooLarge: it is longer than ``Limits.body``.
        :raises ContentUndecodable: it is not in the coding that it says.
        :raises UpstreamError: the connection ended before it did, or nothing came for too long.
        :raises DeadlineExceeded: it was not there in time.
        :raises RuntimeError: pieces of it were taken.
        """
        if self._content is None:
            self._content = await self._read()
        return self._content

    async def _read(self) -> bytes:
        limit = self._limits.body
        length = find_header(self._pairs, b"content-length")
        if length is not None and int(length) > limit and self.request.method != "HEAD":
            self.discard()
            raise self._too_large(f"{int(length)} bytes of content", limit)
        pieces: list[bytes] = []
        size = 0
        async with aclosing(self._pull(limit)) as pulled:
            async for piece in pulled:
                size += len(piece)
                if size > limit:
                    raise self._too_large("content", limit)
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _too_large(self, what: str, limit: int) -> ContentTooLarge:
        message = f"{self.request}: {what}, of which at most {limit} bytes are taken (Limits.body)"
        return ContentTooLarge(message, target=self.request.url.origin)

    async def text(self) -> str:
        """The content in the charset that it says, else UTF-8.

        :raises ContentUndecodable: it is not. Others as for :meth:`read`.
        """
        found = _CHARSET.search(self.headers.get("content-type", ""))
        charset = found[1] if found else "utf-8"
        try:
            return (await self.read()).decode(charset)
        except (UnicodeDecodeError, LookupError) as error:
            raise ContentUndecodable(f"{self.request}: the content is not {charset}: {error}") from error

    async def json(self, kind: Any = Any) -> Any:
        """The content as JSON of type ``kind``, whatever ``content-type`` says.

        :raises ContentUndecodable: it is not; says where. Others as for :meth:`read`.
        """
        return self._decoded(msgspec.json.decode, await self.read(), kind, "JSON")

    async def msgpack(self, kind: Any = Any) -> Any:
        """The content as MessagePack of type ``kind``.

        :raises ContentUndecodable: it is not; says where. Others as for :meth:`read`.
        """
        return self._decoded(msgspec.msgpack.decode, await self.read(), kind, "MessagePack")

    def _decoded(self, decode: Any, content: bytes, kind: Any, what: str) -> Any:
        try:
            return decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            name = getattr(kind, "__name__", str(kind))
            as_what = what if kind is Any else f"{what} of {name}"
            raise ContentUndecodable(
                f"{self.request}: the content of the {self.status} is not {as_what}: {error}"
            ) from error

    # Piece by piece

    def stream(self) -> AsyncGenerator[bytes, None]:
        """The content, decompressed, piece by piece as it comes; once. The server waits while nobody asks.

        :raises ContentTooLarge: it becomes more than ``Limits.decompressed``. Others as for :meth:`read`.
        """
        return self._stream()

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        if self._content is not None:
            if self._content:
                yield self._content
            return
        pulled = self._pull(self._limits.decompressed)
        try:
            async for piece in pulled:
                yield piece
        except GeneratorExit:
            if not self._entered:
                self._report("response stream abandoned")
            raise
        finally:
            await pulled.aclose()

    async def _pull(self, limit: int) -> AsyncGenerator[bytes, None]:
        """The decoded content; what is not asked for any more is left."""
        source = self._source
        if self._taken or source is None:
            raise RuntimeError(f"{self!r}: its content was taken, or left, already")
        self._taken = True
        done = False
        try:
            decoder = self._decoder(limit)
            while piece := await source.next_piece():
                if self._tap is not None:
                    self._tap.piece(piece)
                if decoder is None:
                    yield piece
                else:
                    for part in decoder.feed(piece):
                        yield part
            if decoder is not None:
                decoder.finish()
            if self._tap is not None:
                await self._tap.end()
            done = True
        except (ContentTooLarge, ContentUndecodable) as error:
            raise type(error)(f"{self.request}: {error}", target=self.request.url.origin) from error
        finally:
            self._end(keep=done)

    async def tap(self, tap: Tap) -> bool:
        """Have ``tap`` given the content as it was sent, in its ``content-encoding``: now, where it is there, else
        while it is read. It hears of the end only if that comes, and all of it could be decoded.

        :return: False: that content is not there, since it was taken already, or made here from what was decoded.
        """
        if (
            self._taken
            or self._tap is not None
            or (not self._decodes and find_header(self._pairs, b"content-encoding") is not None)
        ):
            return False
        if self._content is not None:
            tap.piece(self._content)
            await tap.end()
            return True
        self._tap = tap
        return self._source is not None

    def _decoder(self, limit: int) -> ContentDecoder | None:
        if not self._decodes or self.request.method == "HEAD":
            return None
        codings = self.headers.get_all("content-encoding")
        return content_decoder(", ".join(codings), limit) if codings else None

    def _end(self, *, keep: bool) -> None:
        source, self._source = self._source, None
        if isinstance(source, Arriving):
            self._trailers = source.trailers
        if source is not None and not keep:
            leave = getattr(source, "leave", None)
            if leave is not None:
                leave()

    async def save(
        self,
        path: str | Path,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
        fsync: bool = False,
    ) -> int:
        """The content in a file, in place of what is there, once it is complete: see
        :func:`forebay.http.client.download.save_response`. Returns its bytes."""
        from forebay.http.client.download import save_response

        return await save_response(self, path, on_progress=on_progress, fsync=fsync)

    async def lines(self, longest: int = 1024 * 1024) -> AsyncIterator[str]:
        """The content as lines of UTF-8, without their ends (LF or CRLF), as they come.

        :param longest: bytes of a line.
        :raises ContentTooLarge: one is longer.
        :raises ContentUndecodable: it is not UTF-8. Others as for :meth:`stream`.
        """
        rest = b""
        async with aclosing(self._stream()) as pieces:
            async for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield self._line(line)
                if len(rest) > longest:
                    raise ContentTooLarge(f"{self.request}: a line is longer than {longest} bytes")
        if rest:
            yield self._line(rest)

    def _line(self, line: bytes) -> str:
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise ContentUndecodable(f"{self.request}: a line is not utf-8: {error}") from error

    # Its end

    def discard(self) -> None:
        """Nobody wants (more of) the content. Its connection is kept where little is left of it, else closed. It may be
        called again."""
        self._end(keep=False)
        link, self._link = self._link, None
        if link is not None:
            link.give_up()

    async def close(self) -> None:
        """As :meth:`discard`."""
        source = self._source
        self.discard()
        if isinstance(source, _Given):
            await source.close()

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def take_connection(self) -> tuple[Connection, bytes]:
        """The connection, which speaks another protocol from now on (101), and what came behind the head.

        :raises RuntimeError: it was not upgraded, or was taken already.
        """
        link, self._link = self._link, None
        if link is None:
            raise RuntimeError(f"{self!r}: its connection was not upgraded, or was taken already")
        return link.detach()

    def __del__(self) -> None:
        if self._source is not None:
            self._report("response forgotten")
            self._end(keep=False)

    def _report(self, what: str) -> None:
        """Tell of a connection that nobody has let go of."""
        source = self._source
        if type(source) is Arriving and source.pending:
            log.warning(what, request=str(self.request), at=source.made_at, received=source.received)


class _Whole(BodySource):
    """Content that is there, but compressed."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def next_piece(self) -> bytes:
        content, self._content = self._content, b""
        return content


class _Given(BodySource):
    """Content of an answer without a server."""

    __slots__ = ("_given", "_pieces")

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self._given = content
        self._pieces = aiter(content)

    async def next_piece(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    async def close(self) -> None:
        """Nobody wants more of it."""
        close = getattr(self._given, "aclose", None)
        if close is not None:
            await close()
