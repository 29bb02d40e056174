"""Files onto connections without a copy through this process (sendfile(2)); over TLS, piece by piece.

uvloop has no ``loop.sendfile``. Once the transport has nothing left to write, its socket is ours to write to, by a
duplicate of its descriptor, as long as everything written meanwhile is held back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from forebay.engine.handler import CloseReason
from forebay.errors import ConnectionClosed

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["send_file"]

_AT_ONCE = 1024 * 1024  # bytes in one call, after which others have their turn
_PIECE = 256 * 1024  # bytes read at once where they have to be encrypted

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # what file systems without it say
_UNREADABLE = frozenset({errno.EIO, errno.ESTALE})


async def send_file(conn: Connection, path: str | Path, offset: int, count: int | None) -> int:
    """See :meth:`forebay.engine.connection.Connection.send_file`."""
    if conn.closing:
        raise conn.closed_error()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # non-blocking: a FIFO would wait for its writer
    try:
        count = _checked(path, os.fstat(fd), offset, count)
        outgoing = conn.outgoing()
        while outgoing.held:  # another file goes first
            await outgoing.wait()
            if conn.gone():
                raise conn.closed_error()
        if conn.closing:
            raise conn.closed_error()
        outgoing.hold()
        part = _Part(fd, offset, count)
        try:
            await _sent_all(conn)
            await (_copy if conn.tls is not None else _zero_copy)(conn, part)
        finally:
            if part.begun and part.rest:  # the peer takes what comes next for the rest of it
                conn.abort(CloseReason.APP)
            outgoing.release()
    finally:
        os.close(fd)
    return count


class _Part:
    """The part of a file that is to be sent, and how far it was."""

    __slots__ = ("begun", "fd", "offset", "rest")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.rest = count
        self.begun = False

    def sent(self, conn: Connection, size: int) -> None:
        """So many bytes more were sent."""
        if not size:
            _broken_off(
                conn, f"became shorter: {os.fstat(self.fd).st_size} bytes where {self.offset + self.rest} were needed"
            )
        self.begun = True
        self.offset += size
        self.rest -= size
        conn.bytes_out += size

    def unreadable(self, conn: Connection, error: OSError) -> NoReturn:
        """The file cannot be read, or read on."""
        if not self.begun:
            raise error
        _broken_off(conn, f"cannot be read: {os.strerror(error.errno or 0)}")


def _broken_off(conn: Connection, why: str) -> NoReturn:
    """The peer waits for bytes that there are no more: only the end of the connection can tell it."""
    conn.abort(CloseReason.ERROR)
    raise ConnectionClosed(f"a file that was being sent {why}")


def _checked(path: str | Path, found: os.stat_result, offset: int, count: int | None) -> int:
    """How many bytes are to be sent."""
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"send_file {path}: is no regular file")
    if not 0 <= offset <= found.st_size:
        raise ValueError(f"send_file {path}: offset {offset} must be from 0 to its size, which is {found.st_size}")
    rest = found.st_size - offset
    if count is None:
        return rest
    if not 0 <= count <= rest:
        raise ValueError(f"send_file {path}: count {count} must be from 0 to {rest}, which is what it has from there")
    return count


async def _sent_all(conn: Connection) -> None:
    """Wait until the transport has given everything to the kernel."""
    while not conn.gone() and conn.transport.get_write_buffer_size():
        await conn.outgoing().wait()
    _must_live(conn)


def _must_live(conn: Connection) -> None:
    if conn.gone():
        raise conn.closed_error()


async def _zero_copy(conn: Connection, part: _Part) -> None:
    loop = asyncio.get_running_loop()
    sock = os.dup(conn.transport.get_extra_info("socket").fileno())
    try:
        while part.rest:
            try:
                part.sent(conn, os.sendfile(sock, part.fd, part.offset, min(part.rest, _AT_ONCE)))
            except BlockingIOError:
                await _until_writable(conn, loop, sock)
                continue
            except OSError as error:
                if error.errno in _NO_SENDFILE and not part.begun:
                    await _copy(conn, part)
                    return
                if error.errno in _UNREADABLE:
                    part.unreadable(conn, error)
                conn.abort(CloseReason.RESET)
                raise ConnectionClosed(
                    f"the connection with {conn.peer} broke: {os.strerror(error.errno or 0)}"
                ) from error
            if part.rest:
                await asyncio.sleep(0)
                _must_live(conn)
    finally:
        os.close(sock)


async def _until_writable(conn: Connection, loop: asyncio.AbstractEventLoop, sock: int) -> None:
    """Wait until the kernel takes more; :class:`Outgoing` watches that the peer does, and wakes us when it is cut."""
    outgoing = conn.outgoing()
    loop.add_writer(sock, outgoing.wake)
    try:
        await outgoing.wait()
    finally:
        loop.remove_writer(sock)
    _must_live(conn)


async def _copy(conn: Connection, part: _Part) -> None:
    while part.rest:
        try:
            data = await _read(part)
        except OSError as error:
            part.unreadable(conn, error)
        _must_live(conn)
        part.sent(conn, len(data))
        conn.transport.write(data)
        await _sent_all(conn)


async def _read(part: _Part) -> bytes:
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, os.pread, part.fd, min(part.rest, _PIECE), part.offset)
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])  # the descriptor must not be closed under a thread that reads from it
        raise
