"""Answers made smaller on their way, where the client can undo it."""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

from forebay.engine.loop import sleep
from forebay.errors import MissingExtra
from forebay.http.files import FileResponse
from forebay.http.headers import MutableHeaders
from forebay.http.messages import Next, Request, Response
from forebay.http.negotiation import IDENTITY, best_coding

__all__ = ["COMPRESSIBLE", "Compression"]

COMPRESSIBLE = frozenset(
    (
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/json-seq",
        "application/jsonl",
        "application/rtf",
        "application/sql",
        "application/toml",
        "application/vnd.apple.mpegurl",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
        "font/collection",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/vnd.microsoft.icon",
        "image/x-icon",
    )
)
"""What is worth compressing, beside ``text/*``, ``*+json``, ``*+xml`` (SVG, Atom, XHTML), ``*+yaml`` and ``*+text``."""

_TYPE = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+/[!#$%&'+.^_`|~0-9A-Za-z-]+")  # no ranges, no parameters
_SUFFIXES = ("+json", "+xml", "+yaml", "+text")
_SLICE = 64 * 1024  # bytes compressed at once, about 2 ms; then others have their turn
_AT_ONCE = 256 * 1024  # bytes of content that are compressed in one go
_NEVER = frozenset((101, 204, 205, 206, 304))
_ABOUT_CONTENT = ("content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5")
_LEVELS: Mapping[str, tuple[int, int, int]] = MappingProxyType({  # lowest, highest, default
    "zstd": (1, 19, 3),
    "br": (0, 11, 4),
    "gzip": (1, 9, 5),
})  # fmt: skip
_PACKAGES = {"zstd": "zstandard", "br": "brotli"}
_WINDOW = 19  # as a power of two of bytes: what a compressor of a stream keeps, for every client there is


class _Compressor(Protocol):
    """A compressor at work."""

    def piece(self, data: bytes) -> bytes:
        """What is there of ``data`` so far; maybe nothing yet."""

    def flush(self) -> bytes:
        """What is left of everything so far, so that the other side can read all of it."""

    def end(self) -> bytes:
        """What is left, and the end."""


class _Gzip:
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        self._made = zlib.compressobj(level, zlib.DEFLATED, 31)  # RFC 1952, a window of 32 KiB

    def piece(self, data: bytes) -> bytes:
        return self._made.compress(data)

    def flush(self) -> bytes:
        return self._made.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._made.flush()


class _Brotli:
    """RFC 7932."""

    __slots__ = ("_made",)

    def __init__(self, brotli: Any, level: int) -> None:
        self._made = brotli.Compressor(quality=level, lgwin=_WINDOW)

    def piece(self, data: bytes) -> bytes:
        made: bytes = self._made.process(data)
        return made

    def flush(self) -> bytes:
        made: bytes = self._made.flush()
        return made

    def end(self) -> bytes:
        made: bytes = self._made.finish()
        return made


class _Zstd:
    """RFC 8878; its window is within the 8 MiB of RFC 9659."""

    __slots__ = ("_block", "_made")

    def __init__(self, zstandard: Any, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=_WINDOW)
        self._block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def piece(self, data: bytes) -> bytes:
        made: bytes = self._made.compress(data)
        return made

    def flush(self) -> bytes:
        made: bytes = self._made.flush(self._block)
        return made

    def end(self) -> bytes:
        made: bytes = self._made.flush()
        return made


class Compression:
    """Compresses answers for clients that accept it (RFC 9110 sections 8.4 and 12.5.3): zstd, br or gzip, by the
    weights in ``accept-encoding``; of equals the first of ``encodings``.

    Answers of the types in :data:`COMPRESSIBLE` that have at least ``min_size`` bytes, or are streamed, get ``vary:
    accept-encoding``; they are compressed where that makes them smaller. A strong ``etag`` becomes weak then, for the
    bytes are others (section 8.8.1). Left alone are answers that are compressed already (``content-encoding``), are
    parts (206) or have no content, have a digest of it, say ``cache-control: no-transform``, or are files: a
    ``StaticFiles`` sends those that were compressed before.

    Streams are compressed piece by piece, and each piece leaves at once, so server-sent events arrive when they are
    sent. Content past 256 KiB is compressed in slices of 64 KiB, between which others have their turn.

    Compressed content over TLS gives away its length. Where one answer has a secret and text that another page can
    choose, that can be used to guess the secret (BREACH). There is no option for answers that set cookies: headers are
    not compressed, so cookies are not what leaks. Give answers that have such secrets ``cache-control: no-transform``,
    or make the secret look different each time.

    :param encodings: the best first; default: zstd and br where they are installed (the extra ``compression``), gzip.
    :param min_size: bytes of content below which it is not worth it.
    :param levels: how hard to try, by encoding: zstd 1 to 19 (3), br 0 to 11 (4), gzip 1 to 9 (5).
    :param types: content types beside :data:`COMPRESSIBLE`.
    :raises ValueError: a parameter is not as it must be.
    :raises MissingExtra: an encoding that is asked for by name is not installed.
    """

    __slots__ = ("_encodings", "_is_compressible", "_levels", "_make", "_min_size", "_types")

    def __init__(
        self,
        *,
        encodings: Sequence[str] | None = None,
        min_size: int = 1024,
        levels: Mapping[str, int] = MappingProxyType({}),
        types: Collection[str] = (),
    ) -> None:
        if min_size < 1:
            raise ValueError(f"Compression: min_size {min_size}: must be at least 1 byte")
        if isinstance(types, str) or not all(_TYPE.fullmatch(one) for one in types):
            raise ValueError(f"Compression: types {types!r}: must be a list of whole types, such as application/x-mine")
        for name in (*(encodings or ()), *levels):
            if name not in _LEVELS:
                raise ValueError(f"Compression: encoding {name!r}: must be one of {', '.join(_LEVELS)}")
        if encodings is not None and (isinstance(encodings, str) or not encodings):
            raise ValueError(f"Compression: encodings {encodings!r}: must be a list of at least one")
        for name, level in levels.items():
            lowest, highest, _ = _LEVELS[name]
            if not lowest <= level <= highest:
                raise ValueError(f"Compression: level {level} of {name}: must be {lowest} to {highest}")
        self._make: dict[str, Callable[[], _Compressor]] = {}
        for name in encodings or _LEVELS:
            make = _maker(name, levels.get(name, _LEVELS[name][2]))
            if make is not None:
                self._make[name] = make
            elif encodings is not None:
                raise MissingExtra("compression", f"Compression(encodings=[{name!r}])")
        self._encodings = tuple(self._make)
        self._min_size = min_size
        self._levels = {name: level for name, level in levels.items() if name in self._make}
        self._types = frozenset(one.lower() for one in types)
        self._is_compressible = lru_cache(256)(self._look_at_type)

    def __repr__(self) -> str:
        levels = f", levels={self._levels!r}" if self._levels else ""
        return f"Compression(encodings={list(self._encodings)!r}, min_size={self._min_size}{levels})"

    async def __call__(self, request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        if response.status == 304 and not isinstance(response, FileResponse):
            _as_whole(request, response.headers)
        if not self._is_eligible(response):
            return response
        response.headers.add_to_list("vary", "accept-encoding")
        accepted = request.headers.get_all("accept-encoding")
        if not accepted:
            return response
        encoding = best_coding(", ".join(accepted).encode("latin-1"), self._encodings)
        if encoding is None or encoding == IDENTITY:
            return response
        compressor = self._make[encoding]()
        if response.stream is not None:
            response.headers.pop("content-length", None)
            response.stream = _Compressed(response.stream, compressor)
        else:
            body = await _compressed(response.body, compressor)
            if len(body) >= len(response.body):
                return response
            headers = response.headers.copy()
            response = Response.encoded(response.status, b"", body)  # a new one: the handler may send the other again
            response.headers = headers
        headers = response.headers
        headers["content-encoding"] = encoding
        headers.pop("accept-ranges", None)
        etag = headers.get("etag")
        if etag is not None and not etag.startswith("W/"):
            headers["etag"] = f"W/{etag}"
        return response

    def _is_eligible(self, response: Response) -> bool:
        if response.status in _NEVER or isinstance(response, FileResponse):
            return False
        headers = response.headers
        if response.stream is None:
            if len(response.body) < self._min_size:
                return False
        else:
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) < self._min_size:
                return False
        if not self._is_compressible(headers.get("content-type", "")):
            return False
        if any(name in headers for name in _ABOUT_CONTENT):
            return False
        said = ",".join(headers.get_all("cache-control"))
        return "no-transform" not in [part.strip().lower() for part in said.split(",")]

    def _look_at_type(self, content_type: str) -> bool:
        kind = content_type.partition(";")[0].strip().lower()
        return kind.startswith("text/") or kind.endswith(_SUFFIXES) or kind in COMPRESSIBLE or kind in self._types


def _as_whole(request: Request, headers: MutableHeaders) -> None:
    """Give a 304 what its 200 has (RFC 9110 section 15.4.5). Its type is not known any more, so all get ``vary``; and
    the tag that the client has is weak, if it was compressed then."""
    headers.add_to_list("vary", "accept-encoding")
    weak = f"W/{headers.get('etag', '')}"
    if weak.startswith('W/"') and any(weak in tags for tags in request.headers.get_all("if-none-match")):
        headers["etag"] = weak


def _maker(name: str, level: int) -> Callable[[], _Compressor] | None:
    """What makes compressors; None where the package is not installed."""
    if name == "gzip":
        return lambda: _Gzip(level)
    try:
        package = importlib.import_module(_PACKAGES[name])
    except ImportError:
        return None
    return (lambda: _Brotli(package, level)) if name == "br" else (lambda: _Zstd(package, level))


async def _compressed(body: bytes, compressor: _Compressor) -> bytes:
    if len(body) <= _AT_ONCE:
        return compressor.piece(body) + compressor.end()
    view = memoryview(body)
    pieces = []
    for start in range(0, len(body), _SLICE):
        pieces.append(compressor.piece(bytes(view[start : start + _SLICE])))
        await sleep(0)
    pieces.append(compressor.end())
    return b"".join(pieces)


class _Compressed:
    """A stream, compressed. Each piece that is taken from it is sent whole before the next one is asked for."""

    __slots__ = ("_compressor", "_ended", "_pieces", "_rest", "_source")

    def __init__(self, source: AsyncIterable[bytes | str], compressor: _Compressor) -> None:
        self._source = source
        self._pieces: AsyncIterator[bytes | str] | None = None
        self._compressor = compressor
        self._rest = memoryview(b"")
        self._ended = False

    def __aiter__(self) -> _Compressed:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._pieces is None:
            self._pieces = aiter(self._source)
        while True:
            while not self._rest:
                try:
                    piece = await anext(self._pieces)
                except StopAsyncIteration:
                    self._ended = True
                    return self._compressor.end()
                self._rest = memoryview(piece.encode() if isinstance(piece, str) else bytes(piece))
            data, self._rest = bytes(self._rest[:_SLICE]), self._rest[_SLICE:]
            made = self._compressor.piece(data)
            if not self._rest:
                made += self._compressor.flush()
            if made:
                return made
            await sleep(0)

    async def aclose(self) -> None:
        """End the stream it is made of."""
        for source in (self._pieces, self._source):
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
                return
