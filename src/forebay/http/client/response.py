"""What a client is answered."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from sys import is_finalizing
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import structlog

from forebay.engine import Connection
from forebay.errors import ContentTooLarge, ContentUndecodable, UpstreamStatus
from forebay.http.client.arriving import Arriving, Given, Whole
from forebay.http.client.decoding import ContentDecoder, content_decoder
from forebay.http.client.request import ClientRequest
from forebay.http.client.settings import Limits
from forebay.http.cookies import Cookies
from forebay.http.headers import Headers
from forebay.http.messages import BodySource
from forebay.wire.heads import STATUS_PHRASES, HeaderPairs, find_header

if TYPE_CHECKING:
    from forebay.http.client.trace import Trace
    from forebay.http.client.url import URL

__all__ = ["ClientResponse", "Tap"]

log = structlog.get_logger("forebay.client")

_CHARSET = re.compile(r"""charset=["']?([^\s"';]+)""", re.IGNORECASE)
_NO_CHARSETS = frozenset(("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"))
"""What Python could decode, and no server may ask for: ``punycode`` takes quadratic time."""
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
            response._source = Given(content)
        else:
            response._content = content
        return response

    # What the connection gives it

    def got(self, content: bytes, trailers: HeaderPairs) -> None:
        """All of the content is there."""
        self._trailers = trailers
        if content and (len(content) > self._limits.body or find_header(self._pairs, b"content-encoding") is not None):
            self._source = Whole(content)
        else:
            self._content = content

    def comes_from(self, arriving: Arriving) -> None:
        """The content is on its way; or, behind a 101, whatever the connection speaks from now on."""
        self._source = arriving
        if self.status == 101:
            self._content = b""

    def when_failed(self, tell: Callable[[BaseException], None]) -> None:
        """Have ``tell`` called when the content that is still to come does not: for those who judge the server."""
        if isinstance(self._source, Arriving):
            self._source.on_failed = tell

    def hold(self) -> None:
        """It is not forgotten, however long nobody asks for its content: ``Limits.unread`` does not count. For those
        who own it until they close it, such as a reader of events."""
        if isinstance(self._source, Arriving):
            self._source.held = True
            if self._source.link is not None and not self._source.awaited:
                self._source.link.unawaited()

    # The head

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {self.request}>"

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
        if type(self._source) is Arriving and self._tap is None and not self._is_encoded and not self._taken:
            return await self._rest(self._source, limit)
        pieces: list[bytes] = []
        size = 0
        async with aclosing(self._pull(limit)) as pulled:
            async for piece in pulled:
                size += len(piece)
                if size > limit:
                    raise self._too_large("content", limit)
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _rest(self, source: Arriving, limit: int) -> bytes:
        """The whole content as it comes: woken once, when it is there."""
        self._taken = True
        done = False
        try:
            content = await source.rest(limit)
            if len(content) > limit:
                raise self._too_large("content", limit)
            done = True
        finally:
            self._end(keep=done)
        return content

    @property
    def _is_encoded(self) -> bool:
        return self._decodes and find_header(self._pairs, b"content-encoding") is not None

    def _too_large(self, what: str, limit: int) -> ContentTooLarge:
        message = f"{self.request}: {what}, of which at most {limit} bytes are taken (Limits.body)"
        return ContentTooLarge(message, target=self.request.url.origin)

    async def text(self) -> str:
        """The content in the charset that it says, else UTF-8.

        :raises ContentUndecodable: it is not. Others as for :meth:`read`.
        """
        found = _CHARSET.search(self.headers.get("content-type", ""))
        charset = found[1] if found else "utf-8"
        content = await self.read()
        try:
            if codecs.lookup(charset).name in _NO_CHARSETS:
                raise LookupError("that is no charset")
            return content.decode(charset)
        except (ValueError, LookupError) as error:
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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
        return self._pull(self._limits.decompressed, tells=not self._entered)

    async def _pull(self, limit: int, *, tells: bool = False) -> AsyncGenerator[bytes, None]:
        """The decoded content; what is not asked for any more is left.

        :param tells: that is told in the log.
        """
        if self._content is not None:
            if self._content:
                yield self._content
            return
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
        except GeneratorExit:
            if tells and isinstance(source, Arriving):
                source.tell("response stream abandoned", str(self.request))
            raise
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
        if not self._is_encoded or self.request.method == "HEAD":
            return None
        return content_decoder(", ".join(self.headers.get_all("content-encoding")), limit)

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
        rest: list[bytes] = []  # of the line that has begun
        size = 0
        async with aclosing(self.stream()) as pieces:
            async for piece in pieces:
                *ends, begun = piece.split(b"\n")
                for end in ends:
                    rest.append(end)
                    line = b"".join(rest)
                    rest.clear()
                    size = 0
                    self._check_line(len(line), longest)
                    yield self._line(line)
                rest.append(begun)
                size += len(begun)
                self._check_line(size, longest)
        if size:
            yield self._line(b"".join(rest))

    def _check_line(self, size: int, longest: int) -> None:
        if size > longest:
            self.discard()
            raise ContentTooLarge(f"{self.request}: a line is longer than {longest} bytes")

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

    async def close(self) -> None:
        """As :meth:`discard`."""
        source = self._source
        self.discard()
        if isinstance(source, Given):
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
        source = self._source
        if self.status != 101 or not isinstance(source, Arriving) or source.link is None:
            raise RuntimeError(f"{self!r}: its connection was not upgraded, or was taken already")
        link, self._source, source.link = source.link, None, None
        return link.detach()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)  # it may not have come to be
        if type(source) is Arriving and not is_finalizing():
            source.forget("response forgotten", str(self.request))
