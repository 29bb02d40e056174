"""Files onto connections without a copy through this process (sendfile(2)); over TLS, piece by piece.

uvloop has no ``loop.sendfile``. Once the transport has nothing left to write, its socket is ours to write to, by a
duplicate of its descriptor, as long as everything written meanwhile is held back.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.engine.handler import CloseReason
from forebay.errors import ConnectionClosed

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["send_file"]

_AT_ONCE = 1024 * 1024  # bytes in one call, after which others have their turn
_PIECE = 256 * 1024  # bytes read at once where they have to be encrypted


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
        try:
            await _sent_all(conn)
            if count:
                await (_copy if conn.tls is not None else _zero_copy)(conn, fd, offset, count)
        finally:
            outgoing.release()
    finally:
        os.close(fd)
    return count


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


async def _zero_copy(conn: Connection, fd: int, offset: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    sock = os.dup(conn.transport.get_extra_info("socket").fileno())
    end = offset + count
    try:
        while offset < end:
            try:
                sent = os.sendfile(sock, fd, offset, min(end - offset, _AT_ONCE))
            except BlockingIOError:
                await _until_writable(conn, loop, sock)
                continue
            except OSError as error:
                conn.abort(CloseReason.RESET)
                raise ConnectionClosed(
                    f"the connection with {conn.peer} broke: {os.strerror(error.errno or 0)}"
                ) from error
            if not sent:
                _shortened(conn, fd, end)
            offset += sent
            conn.bytes_out += sent
            if offset < end:
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


async def _copy(conn: Connection, fd: int, offset: int, count: int) -> None:
    end = offset + count
    loop = asyncio.get_running_loop()
    while offset < end:
        data = await loop.run_in_executor(None, os.pread, fd, min(end - offset, _PIECE), offset)
        _must_live(conn)
        if not data:
            _shortened(conn, fd, end)
        offset += len(data)
        conn.bytes_out += len(data)
        conn.transport.write(data)
        await _sent_all(conn)


def _shortened(conn: Connection, fd: int, end: int) -> None:
    """The peer waits for bytes that there are no more: only the end of the connection can tell it."""
    conn.abort(CloseReason.ERROR)
    size = os.fstat(fd).st_size
    raise ConnectionClosed(f"a file that was being sent became shorter: {size} bytes where {end} were needed")
