"""Files onto connections without a copy through this process (sendfile(2)); over TLS, piece by piece.

uvloop has no ``loop.sendfile``. Once the transport has nothing left to write, its socket is ours to write to, as long
as everything written meanwhile is held back. Most files leave whole in the call that starts them; for the rest we wait
for the socket by a duplicate of its descriptor, since the loops do not let us wait by the transport's own.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from forebay.engine.handler import CloseReason
from forebay.engine.open_file import OpenFile
from forebay.errors import ConnectionClosed

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["OnDone", "Sending", "SendsFiles"]

OnDone = Callable[[Exception | None], None]

_AT_ONCE = 1024 * 1024  # bytes in one call, after which others have their turn
_PIECE = 256 * 1024  # bytes read at once where they have to be encrypted

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # what file systems without it say
_UNREADABLE = frozenset({errno.EIO, errno.ESTALE})


class SendsFiles:
    """The part of a :class:`~forebay.engine.connection.Connection` that sends files."""

    __slots__ = ()

    async def send_file(self, path: str | Path, offset: int = 0, count: int | None = None) -> int:
        """Send a part of a file as it is, without framing, and return when the kernel has taken it.

        Its bytes go from the page cache to the socket without passing through this process (``sendfile``), except over
        TLS. What is written meanwhile is sent after it. When it is cancelled, or fails, after it has sent a part, the
        connection is cut: the peer would take what comes next for the rest of the file.

        :param offset: bytes to leave out at the file's start.
        :param count: bytes to send; ``None``: all up to its end.
        :return: how many were sent.
        :raises OSError: the file cannot be opened or read; nothing was sent.
        :raises ValueError: it is no regular file, or has no such part; nothing was sent.
        :raises ConnectionClosed: the connection is closed, was while sending, or had to be because the file became
            shorter meanwhile.
        """
        conn = cast("Connection", self)
        if conn.closing:
            raise conn.closed_error()
        file = OpenFile(path)
        try:
            if count is None:
                count = max(0, file.size - offset)
            done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

            def on_done(error: Exception | None) -> None:
                if not done.done():
                    done.set_result(error)

            sending = _started(conn, file, offset, count, on_done)
            try:
                error = await done
            except asyncio.CancelledError:
                if sending is not None:
                    sending.cancel()
                raise
        finally:
            file.release()
        if error is not None:
            raise error
        return count

    def start_file(self, file: OpenFile, offset: int, count: int, on_done: OnDone) -> None:
        """As :meth:`send_file`, without waiting.

        :param on_done: called once, with the error if there is one: before this returns where the kernel takes all of
            it at once, and after ``on_close`` where the connection is lost or cut by others.
        :param file: the caller may release it when this returns; it is kept open as long as it is needed.
        :raises ValueError: the file has no such part; nothing was sent, and ``on_done`` is not called.
        """
        conn: Connection = self  # type: ignore[assignment]  # a cast would be called
        _started(conn, file, offset, count, on_done)


def _started(conn: Connection, file: OpenFile, offset: int, count: int, on_done: OnDone) -> Sending | None:
    """Send what is taken at once. What is under way, if that was not all."""
    size = file.size
    if not 0 <= offset <= size:
        raise ValueError(f"send {file.path}: offset {offset} must be from 0 to its size, which is {size}")
    if not 0 <= count <= size - offset:
        rest = size - offset
        raise ValueError(f"send {file.path}: count {count} must be from 0 to {rest}, which is what it has from there")
    conn.uncork()
    transport = conn.transport
    if transport.is_closing():
        conn.abort(CloseReason.RESET)  # unless it was closed by us
    if conn.closing:
        asyncio.get_running_loop().call_soon(on_done, conn.closed_error())
        return None
    sent = 0
    sock = transport.get_extra_info("socket") if transport.get_extra_info("forebay_tls") is None else None
    if sock is not None and conn.writable and not conn.write_buffer_size():
        try:
            sent = os.sendfile(sock.fileno(), file.fd, offset, min(count, _AT_ONCE))
        except OSError:  # it comes again, where it is dealt with
            sent = 0
        if sent == count:
            conn.bytes_out += sent
            on_done(None)
            return None
    sending = Sending(conn, file, offset, count, on_done, sent)
    sending.start()
    return sending


class Sending:
    """A part of a file on its way: first in line, it has the socket (:attr:`Outgoing.files`)."""

    __slots__ = ("_begun", "_by_copy", "_conn", "_file", "_offset", "_on_done", "_rest", "_sock", "_watching")

    def __init__(
        self, conn: Connection, file: OpenFile, offset: int, count: int, on_done: OnDone, sent: int = 0
    ) -> None:
        self._conn = conn
        self._file = file
        self._offset = offset + sent
        self._rest = count - sent
        self._on_done: OnDone | None = on_done
        self._begun = sent > 0
        conn.bytes_out += sent
        self._by_copy = conn.tls is not None or conn.transport.get_extra_info("socket") is None
        self._sock = -1  # a duplicate of the connection's
        self._watching = False  # the loop tells us when there is room in it
        file.acquire()

    def start(self) -> None:
        """Get in line."""
        self._conn.outgoing().admit(self)

    def go_on(self) -> None:
        """Send as much as is taken, within our turn. Called when it may be more than before."""
        conn = self._conn
        if self._on_done is None:
            return
        if conn.transport.is_closing():
            conn.abort(CloseReason.RESET)  # or it was aborted; either way we are told by it that we are lost
        elif conn.transport.get_write_buffer_size():
            return
        elif not self._rest:
            self._end(None)
        elif self._by_copy:
            self._copy()
        else:
            self._zero_copy()

    def lost(self) -> None:
        """The connection is gone: nothing more is sent. Whoever waits is told a little later: it may be further up in
        the stack, where the connection is being cut."""
        on_done = self._released()
        if on_done is not None:
            asyncio.get_running_loop().call_soon(on_done, self._conn.closed_error())

    def cancel(self) -> None:
        """Nobody wants it any more. Once a part was sent the peer takes what comes next for the rest of it."""
        if self._released() is not None:
            if self._begun:
                self._conn.abort(CloseReason.APP)
            self._conn.outgoing().release(self)

    # The two ways

    def _zero_copy(self) -> None:
        conn = self._conn
        if self._sock < 0:
            self._sock = os.dup(conn.transport.get_extra_info("socket").fileno())
        try:
            size = os.sendfile(self._sock, self._file.fd, self._offset, min(self._rest, _AT_ONCE))
        except BlockingIOError:
            size = -1
        except OSError as error:
            if error.errno in _NO_SENDFILE and not self._begun:
                self._by_copy = True
                self._copy()
            elif error.errno in _UNREADABLE:
                self._unreadable(error)
            else:
                conn.abort(CloseReason.RESET)  # by which we are told that we are lost
            return
        if size >= 0 and not self._sent(size):
            return
        if not self._rest:
            self._end(None)
        elif not self._watching:
            self._watching = True
            asyncio.get_running_loop().add_writer(self._sock, self.go_on)

    def _copy(self) -> None:
        transport = self._conn.transport
        turn = _AT_ONCE
        while self._rest and turn > 0:
            try:
                data = os.pread(self._file.fd, min(self._rest, _PIECE), self._offset)
            except OSError as error:
                self._unreadable(error)
                return
            if not self._sent(len(data)):
                return
            turn -= len(data)
            transport.write(data)
            if transport.get_write_buffer_size():
                return  # the transport tells us when it has written that
        asyncio.get_running_loop().call_soon(self.go_on)

    def _sent(self, size: int) -> bool:
        """So many bytes more were sent. False: that was the end of the file, before its time."""
        if not size:
            have = os.fstat(self._file.fd).st_size
            self._broken_off(f"became shorter: {have} bytes where {self._offset + self._rest} were needed")
            return False
        self._begun = True
        self._offset += size
        self._rest -= size
        self._conn.bytes_out += size
        return True

    # Its end

    def _unreadable(self, error: OSError) -> None:
        """The file cannot be read, or read on."""
        if self._begun:
            self._broken_off(f"cannot be read: {os.strerror(error.errno or 0)}")
        else:
            self._end(error)

    def _broken_off(self, why: str) -> None:
        """The peer waits for bytes that there are no more: only the end of the connection can tell it."""
        self._end(ConnectionClosed(f"{self._file.path}, which was being sent, {why}"), cut=CloseReason.ERROR)

    def _end(self, error: Exception | None, *, cut: CloseReason | None = None) -> None:
        on_done = self._released()
        if on_done is None:
            return
        if cut is not None:
            self._conn.abort(cut)
        self._conn.outgoing().release(self)
        try:
            on_done(error)
        except Exception as failure:
            self._conn.failed(failure)

    def _released(self) -> OnDone | None:
        """Let go of everything; whom to tell, when that was not done before."""
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            if self._sock >= 0:
                if self._watching:
                    asyncio.get_running_loop().remove_writer(self._sock)
                os.close(self._sock)
            self._file.release()
        return on_done
