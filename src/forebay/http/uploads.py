"""Files that clients send, kept in memory while they are small and in an unnamed temporary file when they are not."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import structlog

from forebay.engine.tasks import Task, unfinished
from forebay.errors import HTTPError
from forebay.http.file_threads import FileThreads
from forebay.http.headers import Headers

__all__ = ["SPOOL_AT", "UploadFile"]

log = structlog.get_logger("forebay.http")

SPOOL_AT = 1024 * 1024
"""Bytes of an upload that are kept in memory; one that grows past it goes to the disk."""

_PIECE = 64 * 1024
_CLOSING = 5.0  # seconds that are waited for a file to be closed
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class UploadFile:
    """A file that a client has sent. Whoever has it reads it from its beginning, in pieces or whole, any number of
    times (:meth:`seek`), or saves it; one task at a time.

    It belongs to the form it came in, which closes it; whoever keeps one longer saves it to a place of its own.

    :param filename: as the client calls it: any text at all, and no path to write to. Empty where a form's file input
        was left empty.
    :param content_type: as the client says; ``application/octet-stream`` where it says nothing. It may be anything.
    :param headers: all headers of its part.
    :param spool_at: bytes kept in memory at most.
    :param directory: of the temporary file; default: the system's (``TMPDIR``).
    """

    __slots__ = (
        "_at", "_broken", "_directory", "_disk", "_memory", "_spool_at", "closed", "content_type", "filename",
        "headers", "size",
    )  # fmt: skip

    def __init__(
        self,
        filename: str,
        content_type: str = "application/octet-stream",
        headers: Headers | None = None,
        *,
        spool_at: int = SPOOL_AT,
        directory: str | Path | None = None,
    ) -> None:
        self.filename = filename
        self.content_type = content_type
        self.headers = headers if headers is not None else Headers(())
        self.size = 0
        self.closed = False
        self._spool_at = spool_at
        self._directory = directory
        self._memory = bytearray()
        self._disk: _DiskFile | None = None
        self._broken = False  # a write is under way, or did not come to its end
        self._at = 0

    def __repr__(self) -> str:
        where = "closed" if self.closed else "memory" if self._disk is None else "disk"
        return f"<UploadFile {self.filename[:80]!r} {self.size} bytes in {where}>"

    @property
    def in_memory(self) -> bool:
        """Whether its content is in memory, and not on the disk."""
        return self._disk is None

    async def write(self, data: bytes) -> None:
        """Add to its end. On the disk this is done in a thread. After one that fails, or is cancelled, the content is
        not whole: the file can only be closed then.

        :raises HTTPError: 507, the disk is full; 503, there can be no temporary file for another reason.
        :raises ValueError: it is closed, or a write to it has failed.
        """
        self._check_usable()
        if self._disk is None:
            if self.size + len(data) <= self._spool_at:
                self._memory += data
                self.size += len(data)
                return
            await self.roll_over()
        if data:
            await self._write_to_disk(data)
            self.size += len(data)

    async def roll_over(self) -> None:
        """Have its content on the disk from now on. Raises what :meth:`write` raises."""
        self._check_usable()
        if self._disk is None:
            self._disk = _DiskFile(self._directory)
            await self._write_to_disk(bytes(self._memory))
            self._memory = bytearray()

    async def _write_to_disk(self, data: bytes) -> None:
        disk = self._disk
        if disk is not None:  # else it was closed meanwhile
            self._broken = True
            await disk.run(disk.write, data)
            self._broken = False

    async def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end and none after it; all that is left with -1.

        :raises HTTPError: 503, the disk cannot be read.
        :raises ValueError: it is closed, or a write to it has failed.
        """
        self._check_usable()
        left = max(0, self.size - self._at)
        count = left if size < 0 else min(size, left)
        if not count:
            return b""
        if self._disk is None:
            data = bytes(memoryview(self._memory)[self._at : self._at + count])
        else:
            data = await self._disk.run(self._disk.read, self._at, count)
        self._at += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Read on from ``offset``, bytes from the beginning.

        :raises ValueError: it is less than 0.
        """
        if offset < 0:
            raise ValueError(f"UploadFile.seek({offset}): must be 0 or more")
        self._at = offset

    async def chunks(self, size: int = _PIECE) -> AsyncIterator[bytes]:
        """What is left, in pieces of ``size`` bytes at most. Raises what :meth:`read` raises."""
        while data := await self.read(size):
            yield data

    async def save_to(self, path: str | Path) -> None:
        """Write the whole content to ``path``, in place of what is there. Until it is complete it stands beside it,
        under another name; nothing is left of one that fails.

        :raises HTTPError: 507, the disk is full.
        :raises OSError: the file cannot be written there: no such directory, no permission.
        :raises ValueError: it is closed, or a write to it has failed.
        """
        self._check_usable()
        disk = self._disk or _DiskFile(None)
        source = self._memory if self._disk is None else disk
        try:
            await disk.run(_save, Path(path), source, foreign=True)
        finally:
            if self._disk is None:
                await unfinished([disk.close()], _CLOSING)

    def close(self) -> Task[None] | None:
        """Let go of its content at once; what is on the disk is gone soon after. May be called again.

        :returns: the task that does the latter, which needs not be awaited.
        """
        self.closed = True
        self._memory = bytearray()
        disk, self._disk = self._disk, None
        return None if disk is None else disk.close()

    async def aclose(self) -> None:
        """:meth:`close`, and wait until that is done, at most 5 seconds."""
        task = self.close()
        if task is not None:
            await unfinished([task], _CLOSING)

    async def __aenter__(self) -> UploadFile:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_usable(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r}: it was closed, which its form does at the end of the request")
        if self._broken:
            raise ValueError(f"{self!r}: its content is not whole, since a write to it failed; it can only be closed")


class _DiskFile:
    """An unnamed temporary file. Its methods, but for :meth:`run` and :meth:`close`, are called in threads.

    Whoever gives up waiting leaves a thread at work behind. The file's own lock has a close wait for it, so that no
    descriptor is written to that already stands for another file.
    """

    __slots__ = ("_directory", "_file", "_gone", "_threads")

    def __init__(self, directory: str | Path | None) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._gone = False
        self._threads = FileThreads.enter()

    async def run(self, call: Callable[..., Any], *args: Any, foreign: bool = False) -> Any:
        """``call`` in a thread; what the disk says against it becomes an HTTPError.

        :param foreign: the file is not ours: only a full disk does.
        """
        try:
            return await self._threads.run(call, *args)
        except OSError as error:
            if error.errno in _FULL:
                log.error("no space for an upload", error=str(error))
                raise HTTPError(507, "there is no space left for this upload") from error
            if foreign:
                raise
            log.error("temporary file of an upload failed", error=str(error))
            raise HTTPError(503, "this upload cannot be kept at the moment") from error

    def close(self) -> Task[None]:
        """Close it, after what is under way."""
        self._gone = True
        return self._threads.leave(self._close)

    def write(self, data: bytes) -> None:
        """Add to the end."""
        if self._file is None:
            file: IO[bytes] = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # closed by close()
            self._file = file
        if self._gone:  # closed before it was opened, or it will be by who sees it now
            self._close()
            return
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
        except ValueError:  # closed by now
            if not self._is_gone():
                raise

    def read(self, at: int, count: int) -> bytes:
        """What stands there."""
        if self._file is None or self._gone:
            return b""
        try:
            self._file.seek(at)
            return self._file.read(count)
        except ValueError:  # closed by now
            if not self._is_gone():
                raise
            return b""

    def _is_gone(self) -> bool:
        return self._gone

    def _close(self) -> None:
        file = self._file
        if file is not None:
            try:
                file.close()
            except OSError as error:  # it writes what is left, for which there is no space; it is closed all the same
                log.debug("temporary file of an upload closed", error=str(error))


def _save(path: Path, source: bytearray | _DiskFile) -> None:
    """Write ``source`` to ``path``, beside it first."""
    beside = path.with_name(f".upload-{secrets.token_hex(8)}")  # not by its own name, which may be the longest there is
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as target:
            if isinstance(source, bytearray):
                target.write(source)
            else:
                at = 0
                while data := source.read(at, 16 * _PIECE):
                    at += len(data)
                    target.write(data)
                if source._gone:
                    raise ValueError("the upload was closed while it was being saved")
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
