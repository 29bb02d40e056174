"""Answers to files: written beside their place and put there when they are complete; broken ones are resumed."""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from forebay.engine.loop import sleep
from forebay.engine.tasks import unfinished
from forebay.errors import RetryClass, UpstreamClosed, UpstreamError, UpstreamProtocolError
from forebay.http.client.partial_file import PartialFile, Source, hash_name, made_mode, replaced_mode
from forebay.http.conditions import read_http_date
from forebay.http.file_threads import FileThreads
from forebay.policy.backoff import Backoff

if TYPE_CHECKING:
    from forebay.http.client.client import Client
    from forebay.http.client.response import ClientResponse
    from forebay.http.client.url import URL

__all__ = ["DownloadProgress", "Downloaded", "download", "save_response"]

DownloadProgress: TypeAlias = Callable[[int, int | None], None]
"""``on_progress(received, total)``: bytes that are in the file, and of how many, where that is known."""

_PIECE = 256 * 1024  # bytes that are written at once
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,18})")
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
_DIGITS = re.compile(r"\d{1,18}")
_HUGE = 10**18
_CLOSING = 5.0  # seconds that are waited for a file to be closed
_WHOLE = frozenset((200, 203))
_SOURCE = random.Random()  # noqa: S311 - clients are spread with it, nothing is secret


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What became of a download.

    :param path: where the file is.
    :param size: its bytes.
    :param resumed: how many of them were there before.
    :param requests: how many it took.
    """

    path: Path
    size: int
    resumed: int
    requests: int


async def save_response(
    response: ClientResponse,
    path: str | Path,
    *,
    on_progress: DownloadProgress | None = None,
    fsync: bool = False,
) -> int:
    """Write the content of ``response`` to ``path``, in place of what is there, once it is complete: until then it
    stands beside it, under another name. Nothing is left of one that fails. A file that is replaced hands on its
    permissions; a symbolic link is replaced, and not followed.

    :param on_progress: called as bytes are written.
    :param fsync: have the disk have it before it is put in its place.
    :returns: its bytes.
    :raises OSError: it cannot be written there, is no regular file, or the disk is full.
    :raises UpstreamError: as for :meth:`~forebay.http.client.response.ClientResponse.stream`.
    """
    beside = _Beside(Path(path))
    threads = FileThreads.enter()
    try:
        total = None if response.headers.get("content-encoding") else _number(response.headers.get("content-length"))
        size = 0
        async with response, aclosing(_large(response)) as pieces:
            async for data in pieces:
                await threads.run(beside.write, data)
                size += len(data)
                if on_progress is not None:
                    on_progress(size, total)
        await threads.run(partial(beside.finish, fsync=fsync))
    finally:
        beside.gone = True
        await unfinished([threads.leave(beside.close)], _CLOSING)
    return size


async def download(
    client: Client,
    url: str | URL,
    path: str | Path,
    *,
    resume: bool = True,
    attempts: int = 5,
    backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
    on_progress: DownloadProgress | None = None,
    digest: str = "",
    fsync: bool = False,
    **options: Any,
) -> Downloaded:
    """Get ``url`` into the file ``path``, in place of what is there, as :func:`save_response` does. Until then what has
    come stands in ``path.part``, with ``path.part.json``, which says what it is of. When the connection breaks, the
    rest is asked for (``range`` with ``if-range``, RFC 9110 section 14); after the last attempt, or when the program
    ends, the next call goes on from there. What has changed on the server meanwhile begins anew, as does all that the
    server gives neither a strong ``etag`` nor an exact ``last-modified``.

    :param resume: whether to go on from what an earlier call has left.
    :param attempts: requests that may fail, or break off, together, at least 1.
    :param backoff: how long is waited after each.
    :param on_progress: called as bytes are written.
    :param digest: what the file must be, as ``sha256:`` and hexadecimal digits; or another hash that Python has.
    :param fsync: have the disk have it before it is put in its place.
    :param options: as for ``client.get``.
    :raises ValueError: an argument makes no sense; ``range`` is given.
    :raises OSError: it cannot be written there, or the disk is full, or another download writes it
        (:class:`BlockingIOError`). What has come stays.
    :raises UpstreamError: the last attempt's error; :class:`~forebay.errors.UpstreamStatus` for another answer.
    :raises UpstreamProtocolError: the file is not what ``digest`` says; nothing of it is left.
    """
    if attempts < 1:
        raise ValueError(f"download attempts {attempts}: must be at least 1")
    hashed = hash_name(digest) if digest else None
    given = options.pop("headers", ())
    headers = list(given.items() if isinstance(given, Mapping) else given)
    if any(name.lower() in ("range", "if-range", "accept-encoding") for name, _ in headers):
        raise ValueError("download headers: range, if-range and accept-encoding are set here")
    async with _opened(Path(path), resume=resume) as (file, threads):
        work = _Download(client, url, [*headers, ("accept-encoding", "identity")], options, on_progress, file, threads)
        failures, delay = 0, 0.0
        while True:
            try:
                if await work.ask():
                    break
            except UpstreamError as error:
                failures += 1
                if failures >= attempts or error.retry is RetryClass.NEVER:
                    raise
                delay = backoff.draw(failures - 1, delay, _SOURCE)
                await sleep(delay)
        if hashed is not None and (found := await threads.run(file.check, *hashed)) != hashed[1]:
            raise UpstreamProtocolError(f"download of {url}: its {hashed[0]} is {found}, and not {hashed[1]}")
        await threads.run(partial(file.finish, fsync=fsync))
        return Downloaded(file.path, file.size, work.resumed, work.requests)


@asynccontextmanager
async def _opened(path: Path, *, resume: bool) -> AsyncIterator[tuple[PartialFile, FileThreads]]:
    threads = FileThreads.enter()
    file = PartialFile(path)
    try:
        await threads.run(partial(file.open, resume=resume))
        yield file, threads
    finally:
        file.leave()
        await unfinished([threads.leave(file.close)], _CLOSING)  # whoever tries again finds it unlocked


class _Download:
    """One file, from as many requests as it takes."""

    __slots__ = ("_client", "_file", "_headers", "_on_progress", "_options", "_threads", "_url", "requests", "resumed")

    def __init__(
        self,
        client: Client,
        url: str | URL,
        headers: list[tuple[str, str]],
        options: dict[str, Any],
        on_progress: DownloadProgress | None,
        file: PartialFile,
        threads: FileThreads,
    ) -> None:
        self._client = client
        self._url = url
        self._headers = headers
        self._options = options
        self._on_progress = on_progress
        self._file = file
        self._threads = threads
        self.resumed = file.size  # bytes that were there before, and still are
        self.requests = 0

    async def ask(self) -> bool:
        """Make a request, and write what comes; whether all of it is there.

        :raises UpstreamError: it failed, or broke off. What came is there.
        """
        known = self._file.source
        at = self._file.size if known.validator else 0
        headers = [*self._headers, ("range", f"bytes={at}-"), ("if-range", known.validator)] if at else self._headers
        self.requests += 1
        response = await self._client.get(self._url, headers=headers, **self._options)
        async with response:
            status = response.status
            first = response.history[0] if response.history else response
            asked = sha256(str(first.request.url).encode()).hexdigest()
            if at and asked != known.url and status in (206, 412, 416):
                await self._begin(Source())  # what was there is of another URL
                return False
            if at and status == 416 and _is_nothing_after(response, known, at):
                return True
            if at and status in (412, 416):
                await self._begin(Source())  # it is shorter now, or another
                return False
            if at and status == 206:
                end: int | None = await self._part(response, at)
            elif status in _WHOLE:
                source = _source_of(response, asked)
                await self._begin(source)
                end = source.total
            else:
                response.raise_for_status()
                raise UpstreamProtocolError(f"{self}: answered with {status}, and no file")
            await self._write(response, end)
        total = self._file.source.total
        return total is None or self._file.size >= total

    def __str__(self) -> str:
        return f"download of {self._url}"

    async def _begin(self, source: Source) -> None:
        self.resumed = 0
        await self._threads.run(self._file.begin, source)

    async def _part(self, response: ClientResponse, at: int) -> int:
        """Where the part ends that was sent; the one that was asked for, or all begins anew.

        :raises UpstreamProtocolError: it is another.
        """
        known, headers = self._file.source, response.headers
        text, etag = headers.get("content-range", ""), headers.get("etag")
        found = _RANGE.fullmatch(text)
        total = None if found is None or found[3] == "*" else int(found[3])
        if found is None or int(found[1]) != at or not at <= int(found[2]) < (total or _HUGE):
            reason = f"asked for bytes {at} and on, and was sent {text[:80] or 'a part that says not which'}"
        elif total is not None and known.total is not None and total != known.total:
            reason = f"it had {known.total} bytes, and has {total} now, as the same version"
        elif etag is not None and known.validator.startswith('"') and etag != known.validator:
            reason = f"asked for a part of {known.validator}, and was sent one of {etag[:80]}"
        elif headers.get("content-encoding"):
            reason = "was sent a part in a coding that was not asked for"
        else:
            self._file.source = Source(known.url, known.validator, known.total if total is None else total)
            return int(found[2]) + 1
        await self._begin(Source())
        raise UpstreamProtocolError(f"{self}: {reason}", retry=RetryClass.MAYBE)

    async def _write(self, response: ClientResponse, end: int | None) -> None:
        """Write what comes, up to ``end`` bytes in the file, where that is known."""
        file, told = self._file, self._on_progress
        total = file.source.total
        if told is not None:
            told(file.size, total)
        async with aclosing(_large(response)) as pieces:
            async for data in pieces:
                if end is not None and file.size + len(data) > end:
                    await self._begin(Source())
                    raise UpstreamProtocolError(f"{self}: was sent more than {end} bytes", retry=RetryClass.MAYBE)
                await self._threads.run(file.write, data)
                if told is not None:
                    told(file.size, total)
        if end is not None and file.size < end:
            raise UpstreamClosed(f"{self}: it ended after {file.size} of {end} bytes")


def _is_nothing_after(response: ClientResponse, known: Source, at: int) -> bool:
    """Whether the range is not there because all of it was there already."""
    found = _UNSATISFIED.fullmatch(response.headers.get("content-range", ""))
    if found is None or int(found[1]) != at or known.total not in (None, at):
        return False
    etag = response.headers.get("etag")  # of another version, where the server does not heed if-range
    return etag is None or not known.validator.startswith('"') or etag == known.validator


def _source_of(response: ClientResponse, asked: str) -> Source:
    headers = response.headers
    if headers.get("content-encoding"):  # what is written is not what ranges are of
        return Source(asked)
    return Source(asked, _validator(headers), _number(headers.get("content-length")))


def _validator(headers: Mapping[str, str]) -> str:
    """What ``if-range`` can say of it: a strong tag, or a date that is a second older than the answer, within which
    nothing else can have been changed (RFC 9110 section 8.8.2.2)."""
    etag = headers.get("etag")
    if etag is not None:
        return etag if _STRONG_TAG.fullmatch(etag) else ""
    modified, date = headers.get("last-modified", ""), headers.get("date", "")
    at = time.time()
    changed = read_http_date(modified.encode("latin-1"), at)
    answered = read_http_date(date.encode("latin-1"), at)
    return modified if changed is not None and answered is not None and answered > changed else ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


async def _large(response: ClientResponse) -> AsyncGenerator[bytes, None]:
    """The content in pieces that are worth a thread; also what came before it broke off."""
    held: list[bytes] = []
    size = 0
    try:
        async for piece in response.stream():
            held.append(piece)
            size += len(piece)
            if size >= _PIECE:
                yield b"".join(held)
                held, size = [], 0
    except UpstreamError:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


class _Beside:
    """A file that is written under another name first. Its methods are called in threads: see :class:`PartialFile`."""

    __slots__ = ("_beside", "_done", "_file", "_mode", "_path", "gone")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f".download-{secrets.token_hex(8)}")  # its own name may be the longest there is
        self._file: Any = None
        self._mode: int | None = None  # of the file that is replaced
        self._done = False
        self.gone = False

    def _open(self) -> Any:
        if self._file is None:
            self._mode = replaced_mode(self._path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._beside, flags, made_mode(self._mode)), "wb", buffering=_PIECE)
        if self.gone:  # whoever wanted it is gone
            self.close()
        return self._file

    def write(self, data: bytes) -> None:
        """Add to its end."""
        file = self._open()
        file.write(data)
        file.flush()

    def finish(self, *, fsync: bool) -> None:
        """Put it in its place."""
        file = self._open()
        if self._mode is not None:
            os.fchmod(file.fileno(), self._mode)
        if fsync:
            os.fsync(file.fileno())
        os.replace(self._beside, self._path)
        self._done = True

    def close(self) -> None:
        """Let go of it; nothing is left of one that is not complete."""
        if self._file is not None:
            with suppress(OSError):  # the disk is full, which was said already
                self._file.close()
            if not self._done:
                self._beside.unlink(missing_ok=True)
