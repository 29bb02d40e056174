"""A bound for the buffers of all connections of a server together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from forebay.engine.handler import CloseReason

if TYPE_CHECKING:
    from forebay.engine.connection import Connection

__all__ = ["BufferMemory"]

_FULL = 0.95  # of the limit: so that at least a twentieth of it is written from one addition to the next
_DOWN_TO = 0.9


class BufferMemory:
    """Knows, about, how much is buffered, and cuts the connections that have most of it when it is too much.

    Adding up all buffers takes time for every connection, so it is done once a second (:meth:`measure`, called by the
    server), and when what slow peers were sent since then may have gone past the limit. That bounds the cost of it only
    if there is always room to grow before the next time, so 95 % of the limit is too much already.

    :param limit: bytes.
    :param connections: those that are open.
    """

    __slots__ = ("_connections", "_grown", "cut", "limit", "used")

    def __init__(self, limit: int, connections: Callable[[], Collection[Connection]]) -> None:
        self.limit = limit
        self.used = 0  # bytes, when last added up
        self.cut = 0  # connections
        self._grown = 0  # bytes since then
        self._connections = connections

    def grew(self, size: int) -> None:
        """So many bytes more are kept for a peer that is slow."""
        self._grown += size
        if self.used + self._grown > self.limit:
            self.measure()

    def measure(self) -> None:
        """Add up all buffers; when that is too much, cut the largest consumers until it is 90 % of the limit."""
        self.used = sum(conn.buffer_size() for conn in self._connections())
        self._grown = 0
        if self.used <= self.limit * _FULL:
            return
        sizes = {conn: conn.buffer_size() for conn in self._connections()}
        for conn in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if self.used <= self.limit * _DOWN_TO:
                return
            self.used -= sizes[conn]
            self.cut += 1
            conn.close_reason = CloseReason.MEMORY
            conn.abort(CloseReason.MEMORY)
