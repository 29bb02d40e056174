"""The slow side of writing: what a connection does once its peer takes less than it is sent."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from forebay.engine.handler import CloseReason
from forebay.engine.loop import RESOLUTION
from forebay.engine.settings import SlowConsumer

if TYPE_CHECKING:
    from forebay.engine.connection import Connection
    from forebay.engine.sendfile import Sending

__all__ = ["Outgoing"]


class Outgoing:
    """What waits to be sent on one connection, beside what its transport has; made when there first is something.

    Under ``drop-oldest`` the transport is filled up to its high watermark, and what follows waits in ``queue``, where
    it can still be dropped. While a file is being sent (``held``) all waits there, since it must not overtake it: it is
    the first of ``files``, the others wait for their turn.

    It is an entry of the timer wheel: its deadline is that of a peer which takes nothing.
    """

    __slots__ = (
        "conn",
        "dropped",
        "dropped_bytes",
        "due_at",
        "expires_at",
        "files",
        "held",
        "linger",
        "queue",
        "queued",
        "taken",
        "waiters",
    )

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.queue: deque[bytes] = deque()
        self.queued = 0  # bytes in it
        self.dropped = 0  # messages
        self.dropped_bytes = 0  # in them
        self.waiters: list[asyncio.Future[None]] = []
        self.files: list[Sending] = []
        self.held = False
        self.linger: float | None = None  # of the close that waits until it is not held any more
        self.taken = 0  # bytes the peer had taken when the deadline was set
        self.expires_at = self.due_at = inf

    def put(self, data: bytes) -> None:
        """Take ``data``, which is written while the connection is not writable."""
        conn = self.conn
        rules = conn.owner.outbound
        size = len(data)
        limit = inf if rules.limit is None else rules.limit
        dropping = rules.policy is SlowConsumer.DROP_OLDEST
        if not dropping and self.waiting() >= limit:
            conn.abort(CloseReason.SLOW_CONSUMER)
            return
        if self.held or self.queue or dropping:  # what is queued must not be overtaken
            self.queue.append(data)
            self.queued += size
            if dropping:
                self._drop(limit)
            if not self.held:
                self.fill()
        else:
            conn.transport.write(data)
        conn.owner.buffered(size)

    def _drop(self, limit: float) -> None:
        """Drop the oldest messages of the queue until what waits is within ``limit``, or only the newest is left."""
        excess = self.waiting() - limit
        while excess > 0 and len(self.queue) > 1:
            size = len(self.queue.popleft())
            excess -= size
            self.queued -= size
            self.dropped += 1
            self.dropped_bytes += size
            self.conn.owner.dropped()

    def fill(self) -> None:
        """Give the transport of the queue what it may hold."""
        transport = self.conn.transport
        high = self.conn.owner.outbound.high
        while self.queue and transport.get_write_buffer_size() <= high:
            data = self.queue.popleft()
            self.queued -= len(data)
            transport.write(data)

    def flush(self) -> None:
        """Give the transport all of the queue: nothing more comes."""
        if self.queue:
            data = b"".join(self.queue)
            self.queue.clear()
            self.queued = 0
            self.conn.transport.write(data)

    def lost(self) -> None:
        """The connection is gone: let go of what it could not send."""
        self.queue.clear()
        self.queued = 0

    # Waiting

    async def wait(self) -> None:
        """Return when something has changed: there is room, the connection is closed, or a file was sent."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def wake(self) -> bool:
        """Wake all who wait; whether there was one."""
        waiters, self.waiters = self.waiters, []
        woken = self.held
        if self.files and self.conn.gone():
            self._lose_files()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
                woken = True
            elif not waiter.cancelled():  # it has its turn, and has not run yet
                woken = True
        return woken

    async def turn(self) -> None:
        """Let the loop have its turn. Who waits here is told of a close as in :meth:`wait`."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self.waiters.append(waiter)
        loop.call_soon(_end_turn, waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    # A file

    def admit(self, file: Sending) -> None:
        """Let a file have the socket, after those before it: what is written from then on waits for its end."""
        self.files.append(file)
        if not self.held:
            self._hold()

    def _hold(self) -> None:
        conn = self.conn
        conn.uncork()
        self.flush()  # what was written before is not to be overtaken
        self.held = True
        conn.writable = False
        conn.transport.set_write_buffer_limits(0, 0)  # to hear when it has written everything
        self.watch()
        self.files[0].go_on()

    def release(self, file: Sending) -> None:
        """The file was sent, or given up."""
        if file not in self.files:  # the connection is gone, and all were told
            return
        conn = self.conn
        first = self.files[0] is file
        self.files.remove(file)
        if not first:
            return
        self.held = False
        if conn.gone():
            self.wake()
            return
        conn.transport.set_write_buffer_limits(conn.owner.outbound.high, conn.owner.outbound.resume_at)
        if self.linger is not None:
            conn.finish(self.linger)
            self._lose_files()
            self.wake()
        elif self.files:
            self._hold()
        elif not conn.transport.get_write_buffer_size():
            conn.resume_writing()
        else:
            self.watch()  # the transport has told us to pause, and will tell us to resume

    def _lose_files(self) -> None:
        files, self.files = self.files, []
        for file in files:
            file.lost()

    # A peer that takes nothing

    def waiting(self) -> int:
        """Bytes that are not sent yet."""
        return self.queued + self.conn.transport.get_write_buffer_size()

    def watch(self) -> None:
        """Set the deadline until which the peer has to take something."""
        conn = self.conn
        seconds = conn.owner.outbound.timeout
        if seconds is None:
            return
        ticker = conn.owner.ticker
        self.taken = self._taken()
        self.expires_at = ticker.read() + seconds + RESOLUTION
        if self.expires_at < self.due_at:
            ticker.hold(self)

    def _taken(self) -> int:
        """Bytes the peer has taken, or the kernel for it."""
        return self.conn.bytes_out - self.waiting() - self.dropped_bytes

    def unwatch(self) -> None:
        """The peer has taken enough."""
        self.expires_at = inf

    def on_expired(self) -> None:
        """See :class:`~forebay.policy.timers.Timed`: cut the peer, unless it took something of what was sent since."""
        conn = self.conn
        if not self.waiting() and not self.held:
            return
        if self._taken() > self.taken:
            self.watch()
            return
        conn.close_reason = CloseReason.WRITE_STALL
        conn.abort(CloseReason.WRITE_STALL)


def _end_turn(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
