"""Where the content of a request comes from: memory, a file, or an async iterable."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from io import TextIOBase
from pathlib import Path
from typing import IO, Any, TypeAlias

from forebay.http.file_threads import FileThreads
from forebay.http.files import guess_type

__all__ = ["EMPTY", "Content", "File", "Progress", "Streamed", "with_progress"]

Progress: TypeAlias = Callable[[int, int | None], None]
"""``on_progress(sent, total)``: bytes that were taken so far, and of how many, where that is known."""

PIECE = 256 * 1024
"""Bytes that are read of a file at once: large enough for what a thread costs, small enough for a thousand uploads."""

_SLICE = 64 * 1024  # bytes of content in memory of which progress is reported
_KIND = re.compile(r"[\t -~]*")


class Content:
    """Bytes that are in memory, and the base of what is not.

    ``length`` is how many bytes there are; None: nobody knows before the end, so they are sent in chunks.
    ``replayable`` says whether they can be sent twice, as retries and some redirects have to. ``kind`` is the media
    type for ``content-type``, "" for none. ``data`` is all of it where that is in memory; else it comes of
    :meth:`pieces`.

    :raises ValueError: ``kind`` holds what no header may.
    """

    __slots__ = ("data", "kind", "length", "replayable")

    def __init__(
        self, data: bytes | None = b"", kind: str = "", *, length: int | None = None, replayable: bool = True
    ) -> None:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"media type {kind!r}: must be visible ASCII")
        self.data = data
        self.kind = kind
        self.length = length if data is None else len(data)
        self.replayable = replayable

    def __repr__(self) -> str:
        size = "a stream" if self.length is None else f"{self.length} bytes"
        return f"<{type(self).__name__} {size}{f' of {self.kind}' if self.kind else ''}>"

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in pieces, none of them empty, from the beginning at each call; exactly ``length`` where that is
        known. Whoever stops before the end closes the generator (``aclose``).

        :raises ValueError: it cannot be sent (again), or is not as long as it was said to be.
        :raises OSError: a file cannot be read.
        """
        return self._pieces()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        if self.data:
            yield self.data


EMPTY = Content()
"""No content at all."""


class Streamed(Content):
    """What an async iterable gives, as it comes: bytes, or text, which is sent as UTF-8. It can be sent once.

    :param length: bytes, where that is known: they are not sent in chunks then, and have to be that many. The last of
        them are sent when the iterable has ended: no server takes part of it for the whole.
    :raises ValueError: ``length`` is less than 0.
    """

    __slots__ = ("_source", "_used")

    def __init__(self, source: AsyncIterable[bytes | str], *, kind: str = "", length: int | None = None) -> None:
        if length is not None and length < 0:
            raise ValueError(f"content length {length}: must be at least 0")
        super().__init__(None, kind, length=length, replayable=False)
        self._source = source
        self._used = False

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        if self._used:
            raise ValueError("content from an async iterable cannot be sent twice")
        self._used = True
        sent = 0
        last = b""  # held back until it is known that nothing comes behind it
        try:
            async for piece in self._source:
                data = piece.encode() if isinstance(piece, str) else bytes(_checked(piece))
                if not data:
                    continue
                sent += len(data)
                if self.length is not None and sent > self.length:
                    raise ValueError(f"content from an async iterable: it gives more than {self.length} bytes")
                if sent == self.length:
                    last = data
                else:
                    yield data
            if self.length is not None and sent < self.length:
                raise ValueError(f"content from an async iterable: it ended after {sent} of {self.length} bytes")
            if last:
                yield last
        finally:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()


def _checked(piece: object) -> bytes | bytearray | memoryview:
    if isinstance(piece, bytes | bytearray | memoryview):
        return piece
    raise TypeError(f"content from an async iterable: a piece must be bytes or str, not {type(piece).__name__}")


class File(Content):
    """A file, read in a thread, piece by piece: as content, or among the ``files`` of a form.

    :param source: its path, which is opened each time that it is sent; or a file that is open for reading in binary
        mode, which is read from where it is, and not closed. One that cannot seek, such as a pipe, can be sent once,
        and in chunks; a thread that waits for it when the request is given up ends when something comes, or its end.
    :param name: what it is called in a form; "": as on the disk, where it is.
    :param kind: its media type; "": by its name's ending.
    :raises OSError: there is no such file, or it may not be seen.
    :raises ValueError: it is a directory, a device, a FIFO or a socket; closed, not open for reading, or in
        non-blocking mode.
    :raises TypeError: it is open in text mode.

    A file that has become shorter or longer than it was when this was made is an error when it is sent, before its last
    piece was: no server takes part of it for the whole.
    """

    __slots__ = ("_begin", "_file", "_used", "name", "path")

    def __init__(self, source: str | Path | IO[bytes], *, name: str = "", kind: str = "") -> None:
        self.path: Path | None = None
        self._file: IO[bytes] | None = None
        self._begin = 0
        self._used = False
        if isinstance(source, str | Path):
            self.path = path = Path(source)
            found = os.stat(path)
            _check_regular(path, found)
            length: int | None = found.st_size
            on_disk: object = path.name
        else:
            self._file = file = _binary(source)
            on_disk = getattr(file, "name", "")
            length = None
            if file.seekable():
                self._begin = file.tell()
                length = max(0, file.seek(0, os.SEEK_END) - self._begin)
                file.seek(self._begin)
        self.name = name or _name_on_disk(on_disk)
        super().__init__(None, kind or guess_type(self.name), length=length, replayable=length is not None)

    def __repr__(self) -> str:
        return f"<{self._what()} {'of unknown length' if self.length is None else f'{self.length} bytes'}>"

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        if self._used and not self.replayable:
            raise ValueError(f"{self._what()}: it cannot seek, and so cannot be sent twice")
        self._used = True
        # What cannot seek may block for as long as it likes, and is no reason for files to wait.
        threads = FileThreads() if self.length is None else FileThreads.enter()
        file = _Reading(self.path, self._file)
        try:
            if self.length is None:
                while piece := await threads.run(file.read, PIECE):
                    yield piece
                return
            held, at = b"", 0  # a piece is held back until it is known that more, or nothing, comes behind it
            while at < self.length:
                piece = await threads.run(file.read_at, self._begin + at, min(PIECE, self.length - at))
                if not piece:
                    raise ValueError(f"{self._what()}: it has shrunk from {self.length} to {at} bytes")
                at += len(piece)
                if held:
                    yield held
                held = piece
            if await threads.run(file.read_at, self._begin + self.length, 1):
                raise ValueError(f"{self._what()}: it has grown past the {self.length} bytes that it had")
            if held:
                yield held
        finally:
            threads.leave(*file.leave())

    def _what(self) -> str:
        return f"file {self.path or self.name or self._file}"


class _Reported(Content):
    """Content that tells how far it is."""

    __slots__ = ("_content", "_on_progress")

    def __init__(self, content: Content, on_progress: Progress) -> None:
        super().__init__(None, content.kind, length=content.length, replayable=content.replayable)
        self._content = content
        self._on_progress = on_progress

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        sent = 0
        pieces = self._content.pieces()
        self._on_progress(0, self.length)
        try:
            async for piece in pieces:
                for at in range(0, len(piece), _SLICE):
                    part = piece[at : at + _SLICE]
                    yield part
                    sent += len(part)
                    self._on_progress(sent, self.length)
        finally:
            await pieces.aclose()


def with_progress(content: Content, on_progress: Progress) -> Content:
    """``content`` that calls ``on_progress`` as it is sent: at its beginning, with 0, and whenever the connection has
    taken a piece. Content that is sent again begins at 0 again. What it raises ends the request."""
    return _Reported(content, on_progress)


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file: open it, and give the open file")


def _binary(source: object) -> IO[bytes]:
    if isinstance(source, TextIOBase):
        raise TypeError(f"file {getattr(source, 'name', '')!r}: must be open in binary mode")
    if not callable(getattr(source, "read", None)) or not callable(getattr(source, "seekable", None)):
        raise TypeError(f"file of type {type(source).__name__}: must be a path or an open binary file")
    file: Any = source
    found: IO[bytes] = file
    name = getattr(found, "name", "")
    if hasattr(found, "readable") and not found.readable():
        raise ValueError(f"file {name!r}: must be open for reading")
    if not found.seekable():
        with suppress(AttributeError, OSError):  # it has no descriptor
            if not os.get_blocking(found.fileno()):
                raise ValueError(f"file {name!r}: must be in blocking mode, else its pauses look like its end")
    return found


def _name_on_disk(name: object) -> str:
    """The last part of a path; what of it is not UTF-8 is replaced, as by browsers. "" for what is no path, such as the
    number of a descriptor, or ``<stdin>``."""
    if not isinstance(name, str | bytes):
        return ""
    last = os.fsencode(os.path.basename(name)).decode(errors="replace")
    return "" if last.startswith("<") else last


def _as_bytes(data: object, file: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"file {getattr(file, 'name', '')!r}: must be open in binary mode, and gave {type(data).__name__}")


class _Reading:
    """A file that is being read, in threads. Whoever gives up waiting for a thread leaves it at work: a file that it
    opens then is closed by it, and one that is closed meanwhile has a lock that waits for it."""

    __slots__ = ("_file", "_gone", "_opened", "_path")

    def __init__(self, path: Path | None, file: IO[bytes] | None) -> None:
        self._path = path
        self._file = file
        self._opened: IO[bytes] | None = None
        self._gone = False

    def leave(self) -> tuple[Callable[[], None], ...]:
        """Nobody reads any more. What is left to be done in a thread, if anything is."""
        self._gone = True
        return () if self._path is None else (self._close,)

    def read(self, count: int) -> bytes:
        """What comes next; of a pipe what there is."""
        file = self._there()
        return _as_bytes(getattr(file, "read1", file.read)(count), file)

    def read_at(self, at: int, count: int) -> bytes:
        """What stands there."""
        file = self._there()
        file.seek(at)
        data = _as_bytes(file.read(count), file)
        if file.tell() != at + len(data):
            raise ValueError(f"file {getattr(file, 'name', '')!r}: something else read it at the same time")
        return data

    def _there(self) -> IO[bytes]:
        if self._path is None:
            assert self._file is not None, "it has a path or a file"
            return self._file
        if self._opened is None:
            _check_regular(self._path, os.stat(self._path))  # opening alone would wait for the writer of a FIFO
            self._opened = open(self._path, "rb", buffering=PIECE)  # noqa: SIM115 - closed by leave()
        if self._gone:
            self._opened.close()
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
