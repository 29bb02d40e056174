"""Files as answers: kept open, checked once a second, sent by sendfile; whole, in parts, or not at all.

What the client has already, and which part it wants, is decided in :mod:`forebay.http.conditions` and
:mod:`forebay.http.ranges`. Files of at most 16 KiB are read into memory once and answered with one write, which was
measured to cost less than sendfile; larger ones leave from the page cache.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from forebay.engine.connection import CloseReason
from forebay.engine.loop import now, sleep
from forebay.engine.open_file import OpenFile, identity_of
from forebay.engine.tasks import Gate, Tasks
from forebay.http.conditions import NOT_MODIFIED, precondition, range_holds, select
from forebay.http.exchange import Exchange, Receiver
from forebay.http.headers import MutableHeaders
from forebay.http.messages import BINARY, Response
from forebay.http.problems import problem
from forebay.http.ranges import Multipart, content_range, read_ranges
from forebay.wire.http1 import encode_headers

__all__ = ["CachedFile", "FileCache", "FileResponse", "respond_with_file"]

SMALL = 16 * 1024
"""Bytes of a file that is kept in memory; all of a cache's together are at most this times ``max_open``."""

_PIECE = 64 * 1024  # bytes of a part that are read at once
_TURN = 1024 * 1024  # bytes of parts after which others have their turn

_OURS = frozenset(("content-type", "etag", "last-modified", "accept-ranges", "content-range"))  # sent in our own way

_NO_SUCH_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO))

_types = mimetypes.MimeTypes()  # the built-in table only: the same answers on every machine
for _kind, _ending in (
    ("text/javascript", ".js"),
    ("text/javascript", ".mjs"),
    ("text/markdown", ".md"),
    ("application/wasm", ".wasm"),
    ("application/json", ".map"),
    ("font/woff", ".woff"),
    ("font/woff2", ".woff2"),
    ("image/avif", ".avif"),
    ("image/webp", ".webp"),
):
    _types.add_type(_kind, _ending)
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def guess_type(path: str) -> str:
    """The content-type of a file by its name; text is UTF-8; ``application/octet-stream`` when nothing is known."""
    kind, compression = _types.guess_type(Path(path).name)
    if compression is not None:
        return _COMPRESSED.get(compression, BINARY)
    if kind is None:
        return BINARY
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


class CachedFile:
    """An open file with all that is sent about it.

    ``etag`` (strong: of size and time of change, in nanoseconds), ``modified`` (seconds since the epoch); as header
    lines: ``type_line``, ``validators`` (``etag``, ``last-modified``) and ``lines``, these and ``accept-ranges``
    together; ``content`` where it is kept in memory.
    """

    __slots__ = ("checked_until", "content", "etag", "file", "lines", "modified", "type_line", "validators")

    def __init__(self, path: str, checked_until: float) -> None:
        self.file = file = OpenFile(path)
        self.checked_until = checked_until
        self.content: bytes | None = None
        try:
            if file.size <= SMALL:
                content = os.pread(file.fd, SMALL + 1, 0)
                if len(content) == file.size:  # else it is being written
                    self.content = content
        except BaseException:
            file.release()
            raise
        self.modified = file.mtime_ns // 1_000_000_000
        self.etag = b'"%x-%x"' % (file.mtime_ns, file.size)
        date = formatdate(self.modified, usegmt=True).encode()
        self.type_line = _type_line(guess_type(path))
        self.validators = b"etag: %b\r\nlast-modified: %b\r\n" % (self.etag, date)
        self.lines = self.type_line + self.validators + b"accept-ranges: bytes\r\n"

    def __repr__(self) -> str:
        return f"<CachedFile {self.file.path} {self.file.size} bytes, {'in memory' if self.content else 'open'}>"


class FileCache:
    """Open files, by their path.

    A file is looked at again, by ``stat``, when it is asked for ``valid_for`` seconds after the last time: until then
    one that was replaced is served as it was. One that is written to in place meanwhile may be sent half old, half new:
    replace files by renaming new ones over them.

    :param max_open: files kept open; the one that was looked at the longest ago makes room.
    :param valid_for: seconds.
    :raises ValueError: ``max_open`` is less than 1, or ``valid_for`` less than 0.
    """

    __slots__ = ("_files", "_max_open", "_valid_for", "senders")

    def __init__(self, *, max_open: int = 512, valid_for: float = 1.0) -> None:
        if max_open < 1:
            raise ValueError(f"max_open {max_open}: must be at least 1")
        if not valid_for >= 0:
            raise ValueError(f"valid_for {valid_for}: must be 0 seconds or more")
        self._files: dict[str, CachedFile] = {}  # the one that was looked at last is the last one
        self._max_open = max_open
        self._valid_for = valid_for
        self.senders = Tasks()  # answers with several parts

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"<FileCache {len(self)} of {self._max_open} files>"

    def get(self, path: str, at: float | None = None) -> CachedFile:
        """The file at ``path``. It is the cache's: acquire its ``file`` to keep it beyond this turn of the loop.

        :param at: loop time, seconds; default: now.
        :raises OSError: it cannot be opened, or read.
        :raises ValueError: it is no regular file, or its path has a NUL.
        """
        if at is None:
            at = now()
        found = self._files.get(path)
        if found is not None:
            if at < found.checked_until:
                return found
            del self._files[path]
            if _is_still(path, found):
                found.checked_until = at + self._valid_for
                self._files[path] = found
                return found
            found.file.release()
        while len(self._files) >= self._max_open:
            self._files.pop(next(iter(self._files))).file.release()
        self._files[path] = found = CachedFile(path, at + self._valid_for)
        return found

    def close(self) -> None:
        """Close all files that no answer under way needs. The cache may be used again."""
        files, self._files = self._files, {}
        for found in files.values():
            found.file.release()


def _is_still(path: str, found: CachedFile) -> bool:
    try:
        return identity_of(os.stat(path)) == found.file.identity
    except OSError:
        return False


class FileResponse(Response):
    """An answer whose content is a file, for handlers to return: whole, or the parts the client asks for, or 304 when
    it has it already (RFC 9110 sections 13 and 14, for status 200 to GET and HEAD). 404 when there is no such file, or
    it is none; 403 when it may not be read.

    Whoever makes ``path`` of what a client sent has to make sure that it leads where it may.

    :param path: of a regular file; relative to the working directory.
    :param content_type: default: by the name's ending.
    :param filename: what a browser is to save it as, instead of showing it (``content-disposition``, RFC 6266).
    :param status: 200 to 599.
    :param headers: without those the server sets, and ``etag``, ``last-modified``, ``accept-ranges`` and
        ``content-range``.
    :raises ValueError: the status is not 200 to 599.
    """

    __slots__ = ("path",)

    def __init__(
        self,
        path: str | Path,
        *,
        content_type: str | None = None,
        filename: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"response status {status}: must be 200 to 599")
        self.path = path if isinstance(path, str) else str(path)
        self.status = status
        self.body = b""
        self.stream = None
        self.headers = MutableHeaders(headers)
        if content_type is not None:
            self.headers["content-type"] = content_type
        if filename is not None:
            self.headers["content-disposition"] = content_disposition(filename)

    def __repr__(self) -> str:
        return f"<FileResponse {self.status} {self.path}>"

    def answer(self, exchange: Exchange, cache: FileCache) -> None:
        """Answer ``exchange``.

        :raises OSError: see :func:`respond_with_file`.
        :raises ValueError: a header could split the response.
        """
        headers = self.headers
        if not headers:
            respond_with_file(exchange, self.path, cache, status=self.status)
            return
        kind, lines = headers.get("content-type"), headers.encode(_OURS)
        respond_with_file(exchange, self.path, cache, status=self.status, headers=lines, content_type=kind)


def content_disposition(filename: str) -> str:
    """``attachment``, to be saved as ``filename`` (RFC 6266): in ASCII, and exactly where that is not enough."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%/' else "_" for c in filename)
    value = f'attachment; filename="{plain}"'
    if plain == filename:
        return value
    return f"{value}; filename*=UTF-8''{quote(filename, safe='!#$&+-.^_`|~', errors='replace')}"


def respond_with_file(
    exchange: Exchange,
    path: str | Path | CachedFile,
    cache: FileCache,
    *,
    status: int = 200,
    headers: bytes = b"",
    content_type: str | None = None,
) -> None:
    """Answer ``exchange`` with a file, or as its conditions and ranges demand; with 404 where there is no such file, or
    it is none, and 403 where it may not be read.

    :param path: of the file, or what ``cache`` gave for it in this turn of the loop.
    :param headers: further lines, encoded.
    :param content_type: default: by the name's ending.
    :raises OSError: the file cannot be opened for reasons that are not the client's, such as too many open files, or
        cannot be read. Nothing was answered.
    :raises ValueError: the content type could split the response. Nothing was answered.
    """
    try:
        found = path if isinstance(path, CachedFile) else cache.get(str(path), exchange.received_at)
    except (OSError, ValueError) as error:
        exchange.respond(*_unavailable(error))
        return
    lines = found.lines
    if content_type is not None or headers:
        kind = found.type_line if content_type is None else _type_line(content_type)
        lines = b"%b%baccept-ranges: bytes\r\n%b" % (kind, found.validators, headers)
    if exchange.fields.conditional and status == 200 and exchange.method in ("GET", "HEAD"):
        fields = select(exchange.headers)
        if fields is not None:
            kind = lines[: lines.index(b"\r\n") + 2]
            if _respond_in_part(exchange, found, cache, fields, kind, lines[len(kind) :]):
                return
    if found.content is not None:
        exchange.respond(status, lines, found.content)
    else:
        exchange.respond_file(status, lines, found.file, 0, found.file.size)


@lru_cache(256)
def _type_line(content_type: str) -> bytes:
    return encode_headers([("content-type", content_type)])


def _unavailable(error: OSError | ValueError) -> tuple[int, bytes, bytes]:
    """The answer where there is no file to be sent.

    :raises OSError: ``error``, where it is none of the client's.
    """
    if isinstance(error, PermissionError):
        return problem(403, "this may not be read")
    if isinstance(error, OSError) and error.errno not in _NO_SUCH_FILE:
        raise error
    return problem(404, "there is nothing at this path")


def _respond_in_part(
    exchange: Exchange, found: CachedFile, cache: FileCache, fields: dict[bytes, bytes], kind: bytes, lines: bytes
) -> bool:
    """Answer with less than the whole, if ``fields`` demand it; whether they did.

    :param kind: the content-type line.
    :param lines: all others.
    """
    at = time.time()
    verdict = precondition(fields, exchange.method, found.etag, found.modified, at=at)
    if verdict == NOT_MODIFIED:
        exchange.respond(NOT_MODIFIED, lines, b"")
        return True
    if verdict:
        exchange.respond(*problem(verdict, "what is at this path is not what the request is meant for"))
        return True
    wanted = fields.get(b"range")
    if wanted is None or exchange.method != "GET":
        return False
    condition = fields.get(b"if-range")
    if condition is not None and not range_holds(condition, found.etag, found.modified, at=at):
        return False
    size = found.file.size
    ranges = read_ranges(wanted, size)
    if ranges is None:
        return False
    if not ranges:
        none = (("content-range", f"bytes */{size}"), ("accept-ranges", "bytes"))
        exchange.respond(*problem(416, f"there are {size} bytes, and none of the range", headers=none))
    elif len(ranges) == 1:
        offset, count = ranges[0]
        lines = b"%b%b%b" % (kind, lines, content_range(offset, count, size))
        if found.content is not None:
            exchange.respond(206, lines, found.content[offset : offset + count])
        else:
            exchange.respond_file(206, lines, found.file, offset, count)
    else:
        parts = Multipart(ranges, size, kind)
        exchange.start(206, parts.line + lines, parts.length)
        sender = _Parts(exchange, found.file, parts)
        exchange.attach(sender, content=False)
        cache.senders.spawn(sender.run(), name=f"parts of {found.file.path}")
    return True


class _Parts(Receiver):
    """Sends several parts of a file, at the pace of the client."""

    __slots__ = ("_exchange", "_file", "_gone", "_parts", "_writable")

    def __init__(self, exchange: Exchange, file: OpenFile, parts: Multipart) -> None:
        self._exchange = exchange
        self._file = file
        self._parts = parts
        self._gone = False
        self._writable = Gate()
        file.acquire()

    async def run(self) -> None:
        """Send them."""
        exchange = self._exchange
        try:
            turn = 0
            for head, offset, count in self._parts.parts:
                await self._write(head)
                while count and not self._gone:
                    data = os.pread(self._file.fd, min(count, _PIECE), offset)
                    if not data:
                        exchange.abort(f"{self._file.path} became shorter while it was being sent")
                        return
                    offset += len(data)
                    count -= len(data)
                    turn += len(data)
                    await self._write(data)
                    if turn >= _TURN:
                        turn = 0
                        await sleep(0)
            await self._write(self._parts.end)
            exchange.finish()
        except OSError as error:
            exchange.abort(f"{self._file.path} cannot be read: {error.strerror}")
        finally:
            self._file.release()

    async def _write(self, data: bytes) -> None:
        if not self._gone and not self._exchange.write(data):
            self._writable.close()
            if not self._gone:
                await self._writable.wait()

    def on_writable(self) -> None:
        self._writable.open()

    def on_disconnect(self, reason: CloseReason) -> None:
        self._gone = True
        self._writable.open()
