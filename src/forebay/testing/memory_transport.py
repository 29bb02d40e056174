"""Two transports that are the ends of one connection, without a socket: what one side writes, the other receives.

They do what those of a TCP connection do: what is written goes through a network that holds so much and no more, and
waits in the writer's buffer past that; either side pauses and resumes, ends its direction, closes, or is cut off. All
of it happens in turns of the loop (``call_soon``): no thread, no timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["MemoryTransport", "memory_pair"]

_CAPACITY = 64 * 1024  # bytes on their way, as in the buffers of two sockets
_CHUNK = 64 * 1024  # bytes a protocol is given at once
_HIGH = 64 * 1024
_LOW = 16 * 1024


def memory_pair(
    client: asyncio.BaseProtocol,
    server: asyncio.BaseProtocol,
    *,
    client_extra: Mapping[str, Any] | None = None,
    server_extra: Mapping[str, Any] | None = None,
    capacity: int = _CAPACITY,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols of the running loop, the server's first; their transports, the client's first.

    :param client_extra: and ``server_extra``: what ``get_extra_info`` tells, such as ``peername`` and ``sockname``.
    :param capacity: bytes that are on their way, in each direction, before they wait in the writer's buffer.
    :raises ValueError: ``capacity`` is less than 1.
    """
    if capacity < 1:
        raise ValueError(f"memory_pair capacity {capacity}: must be at least 1 byte")
    ours = MemoryTransport(client, client_extra, capacity)
    theirs = MemoryTransport(server, server_extra, capacity)
    ours.peer, theirs.peer = theirs, ours
    server.connection_made(theirs)
    client.connection_made(ours)
    return ours, theirs


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory; :func:`memory_pair` makes both.

    ``get_extra_info("forebay_reset")`` says whether the connection is broken. A protocol that raises where it is given
    data is cut off, and the loop's exception handler hears of it.
    """

    peer: MemoryTransport
    """The other end."""

    def __init__(self, protocol: asyncio.BaseProtocol, extra: Mapping[str, Any] | None, capacity: int) -> None:
        super().__init__(dict(extra or {}))
        self._loop = asyncio.get_running_loop()
        self._protocol = cast("asyncio.Protocol", protocol)
        self._capacity = capacity
        self._high = _HIGH
        self._low = _LOW
        self._sent: deque[memoryview] = deque()  # written, and not received by the peer yet
        self._size = 0  # bytes in it
        self._full = False  # the protocol was told to pause
        self._reading = True
        self._closing = False
        self._ended = False  # nothing more is written
        self._heard_end = False  # of the peer
        self._broken = False  # the peer is gone, and has not taken all
        self._lost = False
        self._due = False  # a delivery

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else "open"
        return f"<MemoryTransport {state} unsent={self._size}>"

    # What protocols ask

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What was given to :func:`memory_pair`. There is no ``socket``."""
        if name == "forebay_reset":
            return self._broken or self._lost
        return super().get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told what happens."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell ``protocol`` what happens from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    @property
    def lost(self) -> bool:
        """Whether the protocol was told that the connection is gone."""
        return self._lost

    # Reading

    def is_reading(self) -> bool:
        """Whether data is taken from the peer."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Take nothing more from the peer. Idempotent."""
        self._reading = False

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`. Idempotent."""
        if not self._reading and not self._closing:
            self._reading = True
            self._soon()

    # Writing

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high watermark, in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Tell the protocol to pause above ``high`` bytes in the buffer, and to go on at ``low``.

        :raises ValueError: not ``0 <= low <= high``.
        """
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"write buffer limits low {low} and high {high}: must be 0 <= low <= high")
        self._high, self._low = high, low
        self._check_full()

    def get_write_buffer_size(self) -> int:
        """Bytes that the network has not taken."""
        return max(0, self._size - self._capacity)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``. It is dropped when the connection is closed or broken.

        :raises RuntimeError: after :meth:`write_eof`.
        """
        if self._ended and not self._closing:
            raise RuntimeError("write() after write_eof()")
        if self._closing or self._broken or not data:
            return
        if self.peer.lost:
            self._break()
            return
        self._sent.append(memoryview(bytes(data)))
        self._size += len(data)
        self.peer._soon()
        self._check_full()

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """End this direction; the peer hears of it behind what was written."""
        if not self._ended:
            self._ended = True
            self.peer._soon()

    def _check_full(self) -> None:
        if not self._full and self.get_write_buffer_size() > self._high:
            self._full = True
            self._protocol.pause_writing()

    # The end

    def close(self) -> None:
        """Send what was written, then close. What the peer still sends is thrown away."""
        if self._closing:
            return
        self._closing = self._ended = True
        self.peer._soon()
        if not self.get_write_buffer_size():
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Cut the connection: what waits in the buffer is lost. The peer hears of a reset, behind what the network has,
        or at once when it does not read."""
        if self._lost:
            return
        self._closing = self._ended = True
        while (excess := self.get_write_buffer_size()) > 0:
            last = self._sent.pop()
            self._size -= len(last)
            if len(last) > excess:
                self._sent.append(last[: len(last) - excess])
                self._size += len(last) - excess
        self.peer._break()
        self._loop.call_soon(self._lose, None)

    def _break(self) -> None:
        """The peer takes nothing more."""
        if not self._lost and not self._broken:
            self._broken = True
            self._sent.clear()
            self._size = 0
            self._soon()

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = self._ended = True
        if self.peer._size:
            self.peer._break()  # it has sent what nobody has read
        self.peer._soon()
        self._protocol.connection_lost(error)

    # Delivery

    def _soon(self) -> None:
        if not self._due and not self._lost:
            self._due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Give the protocol what the peer has sent: data, its end, or a reset, in this order."""
        self._due = False
        peer = self.peer
        if self._lost:
            return
        if self._broken and (self._closing or not self._reading or not peer._size):
            self._lose(ConnectionResetError("the connection was reset by the peer"))
            return
        if self._closing or not self._reading:
            return
        try:
            if peer._size:
                self._protocol.data_received(peer._take())
                self._soon()
            elif peer._ended and not self._heard_end:
                self._heard_end = True
                if not self._protocol.eof_received():
                    self.close()
        except Exception as error:
            context = {"message": "protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            self._loop.call_exception_handler(context)
            self.abort()

    def _take(self) -> bytes:
        """What the peer receives next. It makes room for what waits."""
        pieces = []
        room = _CHUNK
        while self._sent and room:
            piece = self._sent[0]
            if len(piece) > room:
                self._sent[0] = piece[room:]
                piece = piece[:room]
            else:
                self._sent.popleft()
            room -= len(piece)
            pieces.append(piece)
        self._size -= _CHUNK - room
        self._loop.call_soon(self._made_room)
        return b"".join(pieces)

    def _made_room(self) -> None:
        waiting = self.get_write_buffer_size()
        if self._full and waiting <= self._low and not self._lost:
            self._full = False
            self._protocol.resume_writing()
        if self._closing and not waiting:
            self._lose(None)
