"""Datagram sockets: what leaves through them, what waits to leave, and what was lost on the way in."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import structlog

from forebay.engine.address import join_host_port
from forebay.engine.loop import now
from forebay.engine.tasks import Gate
from forebay.observe.sparing import Sparing

__all__ = ["LONGEST", "DatagramSocket", "attach"]

log = structlog.get_logger("forebay.engine")

LONGEST = 65_535
"""Bytes no datagram is longer than."""

_SO_MEMINFO = 55  # Linux 4.12: numbers about a socket's memory, among them what /proc/net/udp shows as ``drops``
_MEMINFO = struct.Struct("9I")
_DROPS = 8


class _Transport(asyncio.DatagramTransport, asyncio.WriteTransport):
    """What the transports of both loops are, though it is said nowhere."""


class DatagramSocket(asyncio.DatagramProtocol):
    """A bound or connected datagram socket that the event loop reads from.

    Datagrams leave with one system call as long as the kernel takes them; then they wait in the transport's queue.
    The call is made here and not through the transport because that cannot send empty datagrams, and reports errors
    without saying whose datagram it was.

    :param sock: it belongs to this object from now on.
    :param send_limit: bytes waiting in the queue past which datagrams are dropped.
    :param unsent: counts what was dropped, by reason.
    """

    def __init__(self, sock: socket.socket, *, send_limit: int, unsent: Counter[str]) -> None:
        self.sock = sock
        self.blocked = False  # something waits in the queue
        self.is_closing = False
        self.errors = 0  # that the network reported
        self.local = _name(sock.getsockname())
        self.transport: _Transport | None = None
        self._sendto: Callable[[Any, Any], int] = sock.sendto
        self._send_limit = send_limit
        self._unsent = unsent
        self._gone = Gate()
        self._sparing = Sparing()
        self._drops_before = self._meminfo_drops() or 0  # the socket may have been another process's before
        self._last_drops: int | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.local}>"

    def send(self, data: Any, address: Any) -> bool:
        """Send one datagram, now or from the queue. False: it was dropped, and counted.

        :raises ValueError: it is longer than a datagram can be.
        """
        if not self.blocked:
            try:
                self._sendto(data, address)
                return True
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._not_sent(error, len(data))
                return False
        return self._queue(data, address)

    def queue_size(self) -> int:
        """Bytes that wait in the queue."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def refuse_late(self) -> bool:
        """Whether the socket is closed, so that nothing can be sent; then that is counted."""
        if self.is_closing:
            self._unsent["closed"] += 1
        return self.is_closing

    def _queue(self, data: Any, address: Any) -> bool:
        transport = self.transport
        if transport is None or self.queue_size() + len(data) > self._send_limit or not data:
            self._unsent["send-queue"] += 1
            self._log("datagrams not sent", "the send queue is full")
            return False
        connected = transport.get_extra_info("peername") is not None
        transport.sendto(bytes(data), None if connected else address)  # a copy: who calls may use a buffer again
        return True

    def _not_sent(self, error: OSError, length: int) -> None:
        if error.errno == errno.EMSGSIZE:
            raise ValueError(f"{length} bytes are more than one datagram can carry") from None
        self._unsent["error"] += 1
        self.error_received(error)

    def log_failure(self, peer: str, handler: str, error: Exception) -> None:
        """Log that a handler raised ``error``, at most once a second for each kind of error."""
        left_out = self._sparing.due((handler, type(error).__name__), now())
        if left_out is not None:
            log.error("handler failed", peer=peer, handler=handler, left_out=left_out, exc_info=error)

    def _log(self, event: str, reason: str) -> None:
        left_out = self._sparing.due((event, reason), now())
        if left_out is not None:
            log.warning(event, local=self.local, reason=reason, left_out=left_out)

    # What was lost on the way in

    def kernel_drops(self) -> int | None:
        """Datagrams the kernel dropped because the socket's receive buffer was full; None: this kernel does not say."""
        drops = self._meminfo_drops()
        if drops is not None:
            self._last_drops = (drops - self._drops_before) % (1 << 32)
        return self._last_drops

    def _meminfo_drops(self) -> int | None:
        try:
            raw = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            return int(_MEMINFO.unpack(raw)[_DROPS])
        except (OSError, struct.error):  # not Linux, an old one, or closed
            return None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast("_Transport", transport)  # as it is for every datagram protocol
        if self.is_closing:  # it was given up before it was there
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=0)
        if hasattr(transport, "max_size"):  # the standard loop allocates this much for each datagram
            transport.max_size = LONGEST + 1

    def pause_writing(self) -> None:
        """Called by the event loop: something waits in the queue."""
        self.blocked = True

    def resume_writing(self) -> None:
        """Called by the event loop: the queue is empty again."""
        self.blocked = False

    def error_received(self, exc: Exception) -> None:
        """Called by the event loop: the network reported an error (ICMP), or sending failed."""
        self.errors += 1
        number = getattr(exc, "errno", None)
        self._log("datagram error", os.strerror(number).lower() if number else str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if not self.is_closing:
            self.is_closing = True
            log.error("datagram socket lost", local=self.local, exc_info=exc)
        self.blocked = False
        self._gone.open()

    # Its end

    def close(self) -> None:
        """Send what is queued, then close the socket. Idempotent."""
        self.kernel_drops()
        self.is_closing = True
        if self.transport is not None:
            self.transport.close()
        else:
            self.sock.close()
            self._gone.open()

    def abort(self) -> None:
        """Close the socket now. What is queued is lost."""
        self.kernel_drops()
        self.is_closing = True
        if self.transport is not None:
            self.transport.abort()
        else:
            self.sock.close()
            self._gone.open()

    async def gone(self) -> None:
        """Wait until the socket is closed."""
        await self._gone.wait()


async def attach(made: DatagramSocket) -> None:
    """Let the running loop read from the socket. On an error it is closed."""
    try:
        made.sock.setblocking(False)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: made, sock=made.sock)
    except BaseException:
        made.abort()
        raise


def _name(sockname: Any) -> str:
    return join_host_port(sockname[0], sockname[1]) if isinstance(sockname, tuple) and sockname else str(sockname)
