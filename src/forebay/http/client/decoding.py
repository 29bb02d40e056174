"""Undoing the content codings of an answer, piece by piece, so that a few bytes cannot become gigabytes in memory.

Codings are those of RFC 9110 section 8.4.1, ``br`` (RFC 7932) and ``zstd`` (RFC 8878, with the window of RFC 9659).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from forebay.errors import ContentTooLarge, ContentUndecodable, MissingExtra

__all__ = ["ContentDecoder", "accepted_codings", "content_decoder"]

_PIECE = 65536  # bytes of the largest piece that is given
_MOST_CODINGS = 4
_INPUT = 16384  # bytes that are decoded in one go; what is left of them is copied for each piece
_BROTLI_PIECE = 16384  # what brotli is asked for; it gives up to twice that
_ZSTD_WINDOW = 8 * 1024 * 1024  # bytes: RFC 9659 section 3
_ZSTD_INPUT = (
    128  # bytes that are decoded in one go: at most 32 blocks, of at most 128 KiB each (RFC 8878 section 3.1.1.2)
)


def accepted_codings() -> str:
    """The value of ``Accept-Encoding``: what can be undone here, by what is installed."""
    return ", ".join(("gzip", "deflate", *(name for name in _EXTRAS if _package(name) is not None)))


def content_decoder(codings: str, limit: int) -> ContentDecoder | None:
    """What undoes the codings of an answer's content.

    :param codings: the value of ``Content-Encoding``, its lines joined by commas; the coding applied last is last.
    :param limit: bytes that the content may become, at least 0.
    :returns: None where there is nothing to undo.
    :raises ContentUndecodable: a coding is unknown, or there are more than four.
    :raises MissingExtra: a coding needs a package that is not installed.
    """
    names = [name for part in codings.split(",") if (name := part.strip(" \t").lower()) not in ("", "identity")]
    if not names:
        return None
    if len(names) > _MOST_CODINGS:
        raise ContentUndecodable(
            f"content has {len(names)} codings on top of each other: at most {_MOST_CODINGS} are undone"
        )
    return ContentDecoder([_stage(name) for name in reversed(names)], limit)


class ContentDecoder:
    """Undoes the codings of one content. Made by :func:`content_decoder`."""

    __slots__ = ("_left", "_limit", "_stages")

    def __init__(self, stages: list[_Stage], limit: int) -> None:
        self._stages = stages
        self._limit = limit
        self._left = [limit] * len(stages)  # bytes that may still come out of each

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the content, in order. What they become is made while it is taken, so take all of it
        before more is fed; none is longer than 64 KiB. A piece may be empty where several codings are undone: so much
        has been done, and nothing came of it.

        :raises ContentTooLarge: the content is longer than the limit; after as much of it was given.
        :raises ContentUndecodable: it is broken.
        """
        pieces: Iterable[bytes] = (data,)
        for number in range(len(self._stages)):
            pieces = self._through(number, pieces)
        return iter(pieces)

    def _through(self, number: int, source: Iterable[bytes]) -> Iterator[bytes]:
        """What comes out of one stage. What goes in between two is bounded as well, or it could be work without end."""
        stage = self._stages[number]
        left = self._left
        for data in source:
            nothing = number > 0
            for start in range(0, len(data), _INPUT):
                for piece in stage.feed(data[start : start + _INPUT] if len(data) > _INPUT else data):
                    left[number] -= len(piece)
                    if left[number] < 0:
                        raise ContentTooLarge(f"content is longer than {self._limit} bytes when it is decoded")
                    nothing = False
                    yield piece
            if nothing:
                yield b""

    def finish(self) -> None:
        """The content is complete. No content at all is no fault: there is nothing that could be decoded.

        :raises ContentUndecodable: it ended too early.
        """
        for stage in self._stages:
            if stage.begun and not stage.complete:
                raise ContentUndecodable(f"content ended before its {stage.name} coding did")


class _Stage(Protocol):
    """Undoes one coding. ``begun``: it was given something; ``complete``: and could end with that."""

    name: str
    begun: bool
    complete: bool

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes become, each piece made when it is asked for."""


def _broken(name: str, error: Exception) -> ContentUndecodable:
    return ContentUndecodable(f"content is not what its {name} coding allows: {error}")


def _behind(name: str) -> ContentUndecodable:
    return ContentUndecodable(f"content goes on behind the end of its {name} coding")


class _Zlib:
    """``gzip``, of any number of members (RFC 1952 section 2.2), and ``deflate``: in zlib's format as it is specified,
    or without it, as some send it."""

    __slots__ = ("_first", "_inflate", "begun", "complete", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = self.complete = False
        self._first = b""  # of deflate, until its format can be told
        self._inflate = zlib.decompressobj(31) if name == "gzip" else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        self.begun = True
        if self._inflate is None:
            data = self._first = self._first + data
            if len(data) < 2:
                return
            self._inflate = zlib.decompressobj(15 if _has_zlib_header(data) else -15)
            self._first = b""
        while True:
            if self.complete:
                if self.name != "gzip" or not b"\x1f\x8b".startswith(data[:2]):
                    raise _behind(self.name)
                self._inflate = zlib.decompressobj(31)
                self.complete = False
            try:
                piece = self._inflate.decompress(data, _PIECE)
            except zlib.error as error:
                raise _broken(self.name, error) from None
            if piece:
                yield piece
            inflate = self._inflate
            if inflate.eof:
                self.complete = True
                data = inflate.unused_data
                if not data:
                    return
            else:
                data = inflate.unconsumed_tail
                if not data and len(piece) < _PIECE:
                    return


def _has_zlib_header(data: bytes) -> bool:
    """RFC 1950 section 2.2. Raw data that looks the same would begin with a stored block with bits set that are 0."""
    return data[0] & 15 == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0


class _Brotli:
    """``br``. Its window has at most 16 MiB, of which only what is filled takes memory."""

    __slots__ = ("_brotli", "_decoder", "begun", "complete", "name")

    def __init__(self, name: str, brotli: Any) -> None:
        self.name = name
        self.begun = self.complete = False
        self._brotli = brotli
        self._decoder = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        if self.complete:
            raise _behind(self.name)
        self.begun = True
        decoder = self._decoder
        while True:
            try:
                piece = decoder.process(data, output_buffer_limit=_BROTLI_PIECE)
            except self._brotli.error as error:
                raise _broken(self.name, error) from None
            self.complete = decoder.is_finished()
            if piece:
                yield piece
            if self.complete or not (piece or data):
                return
            data = b""  # there may be more, whatever it says of its input


class _Zstd:
    """``zstd``, of any number of frames (RFC 8878 section 3.1)."""

    __slots__ = ("_frame", "_made", "_zstandard", "begun", "complete", "name")

    def __init__(self, name: str, zstandard: Any) -> None:
        self.name = name
        self.begun = self.complete = False
        self._zstandard = zstandard
        self._made = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame = self._made.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.begun = self.begun or bool(data)
        waiting: list[bytes] = []
        size = 0
        for start in range(0, len(data), _ZSTD_INPUT):  # how much comes out cannot be bounded otherwise
            rest = data[start : start + _ZSTD_INPUT]
            while rest:
                if self.complete:
                    self._frame = self._made.decompressobj()
                    self.complete = False
                try:
                    made = self._frame.decompress(rest)
                except self._zstandard.ZstdError as error:
                    raise _broken(self.name, error) from None
                rest = b""
                if self._frame.eof:
                    self.complete = True
                    rest = self._frame.unused_data
                waiting.append(made)
                size += len(made)
            if size >= _PIECE or start + _ZSTD_INPUT >= len(data):
                joined = b"".join(waiting)
                waiting.clear()
                size = 0
                for at in range(0, len(joined), _PIECE):
                    yield joined[at : at + _PIECE]


_EXTRAS: dict[str, tuple[str, Callable[[str, Any], _Stage]]] = {"br": ("brotli", _Brotli), "zstd": ("zstandard", _Zstd)}


@cache
def _package(name: str) -> Any:
    """What undoes that coding, where it is installed; None where not, or where it cannot be bounded."""
    try:
        package = import_module(_EXTRAS[name][0])
    except ImportError:
        return None
    if name == "br" and not hasattr(package.Decompressor, "can_accept_more_data"):
        return None  # before 1.2 it gives all that its input becomes, at once
    return package


def _stage(name: str) -> _Stage:
    if name in ("gzip", "x-gzip"):
        return _Zlib("gzip")
    if name == "deflate":
        return _Zlib(name)
    if name not in _EXTRAS:
        raise ContentUndecodable(f"content coding {name[:40]!r} is unknown: {accepted_codings()} can be undone")
    package = _package(name)
    if package is None:
        raise MissingExtra("compression", f"content coding {name}")
    return _EXTRAS[name][1](name, package)
