"""Messages that wait until there is a connection, and until they are known to be on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from forebay.engine.connection import Connection
from forebay.engine.tasks import Gate
from forebay.errors import ConnectionClosed, Overloaded
from forebay.wire.framing import Decoder, Framing

__all__ = ["Outbox", "OutboxPolicy", "Sender", "Unsent", "WithBatches"]

_BATCH = 64 * 1024  # bytes written at once: few system calls, and little to repeat when they fail


class OutboxPolicy(StrEnum):
    """What happens to a message for which there is no room."""

    WAIT = "wait"
    """``send`` waits for room; ``send_nowait`` raises :class:`~forebay.errors.Overloaded`."""

    DROP_OLDEST = "drop-oldest"
    """The oldest messages that have not been written to the connection make room, and are counted. When all of them
    have been, the new message is the oldest such one, and is dropped itself."""

    REFUSE = "refuse"
    """``send`` and ``send_nowait`` raise :class:`~forebay.errors.Overloaded`."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """How much may wait in the outbox of a :class:`~forebay.engine.reconnecting.Reconnecting`, and what happens then.

    :param messages: at most this many.
    :param size: bytes of all of them together, as they go over the wire.
    :param policy: what happens to a message for which there is no room; see :class:`OutboxPolicy`.

    :raises ValueError: a parameter makes no sense.
    """

    messages: int = 1024
    size: int = 1024 * 1024
    policy: OutboxPolicy | str = OutboxPolicy.WAIT

    def __post_init__(self) -> None:
        if self.messages < 1:
            raise ValueError(f"Outbox messages {self.messages}: must be at least 1")
        if self.size < 1:
            raise ValueError(f"Outbox size {self.size}: must be at least 1")
        try:
            object.__setattr__(self, "policy", OutboxPolicy(self.policy))
        except ValueError:
            raise ValueError(f"Outbox policy {self.policy!r}: expected one of {', '.join(OutboxPolicy)}") from None


class Unsent:
    """The messages of one outbox, oldest first: those written to the present connection, then those that wait.

    No I/O. Counters: ``accepted``, ``settled`` (left the outbox as the promise says), ``dropped``, ``repeated`` (went
    back into the queue because the connection they were written to broke).
    """

    __slots__ = ("_waiting", "_written", "accepted", "dropped", "repeated", "rules", "settled", "size")

    def __init__(self, rules: Outbox) -> None:
        self.rules = rules
        self.size = 0  # bytes
        self.accepted = self.settled = self.dropped = self.repeated = 0
        self._written: deque[bytes] = deque()
        self._waiting: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._written) + len(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._waiting)

    def fits(self, size: int) -> bool:
        """Whether there is room for one more message of ``size`` bytes.

        :raises ValueError: there never will be.
        """
        if size > self.rules.size:
            raise ValueError(f"a message of {size} bytes does not fit into an outbox of {self.rules.size}")
        return len(self) < self.rules.messages and self.size + size <= self.rules.size

    def put(self, data: bytes) -> None:
        """Append a message; there must be room."""
        self._waiting.append(data)
        self.size += len(data)
        self.accepted += 1

    def put_dropping(self, data: bytes) -> None:
        """Append a message; what has waited longest makes room, be it this one.

        :raises ValueError: there never will be room.
        """
        while not self.fits(len(data)):
            if not self._waiting:
                self.dropped += 1
                return
            self.size -= len(self._waiting.popleft())
            self.dropped += 1
        self.put(data)

    def take_batch(self) -> bytes:
        """The oldest messages that wait, joined: up to 64 KiB, at least one message. They count as written now."""
        batch: list[bytes] = []
        size = 0
        waiting = self._waiting
        while waiting and (not batch or size + len(waiting[0]) <= _BATCH):
            data = waiting.popleft()
            batch.append(data)
            size += len(data)
        self._written.extend(batch)
        return batch[0] if len(batch) == 1 else b"".join(batch)

    def settle(self, count: int | None = None) -> int:
        """The oldest ``count`` messages that were written, or all of them, need not be kept any longer.

        :return: how many more were named than had been written.
        """
        written = self._written
        most = len(written) if count is None else min(count, len(written))
        self.size -= sum(map(len, islice(written, most)))
        if most == len(written):
            written.clear()
        else:
            for _ in range(most):
                written.popleft()
        self.settled += most
        return 0 if count is None else count - most

    def rewind(self) -> None:
        """The connection broke: what was written to it and not settled is to be written again, first."""
        self.repeated += len(self._written)
        self._waiting.extendleft(reversed(self._written))
        self._written.clear()


class Batch(bytes):
    """Messages that have the form they have on the wire."""

    __slots__ = ()


class WithBatches:
    """A framing that lets :class:`Batch` through as it is."""

    __slots__ = ("inner",)

    def __init__(self, inner: Framing) -> None:
        self.inner = inner

    @property
    def maximum(self) -> int:
        """See :class:`~forebay.wire.framing.Framing`."""
        return self.inner.maximum

    def encode(self, message: object) -> bytes:
        """See :class:`~forebay.wire.framing.Framing`."""
        return message if type(message) is Batch else self.inner.encode(message)

    def decoder(self) -> Decoder:
        """See :class:`~forebay.wire.framing.Framing`."""
        return self.inner.decoder()


class Sender:
    """Writes an outbox to one connection after the other.

    The connection has no watermarks (``Outbound(high=0, low=0)``): it is writable when the kernel has taken all of what
    was written. One batch is written when the one before it was taken.

    :param acknowledged: a message leaves the outbox when it is acknowledged, instead of when the kernel has taken it.
    """

    def __init__(self, rules: Outbox, *, acknowledged: bool) -> None:
        self.unsent = Unsent(rules)
        self.refused = 0  # messages for which there was no room
        self.closed = True  # nothing more is accepted
        self.settled = Gate(is_open=True)  # the outbox is empty
        self._acknowledged = acknowledged
        self._conn: Connection | None = None
        self._due: asyncio.Handle | None = None
        self._turn = asyncio.Lock()
        self._room = Gate()
        self._waiting = 0  # tasks that wait for room

    # Into the outbox

    async def send(self, data: bytes) -> None:
        """Accept ``data`` by the outbox's policy.

        :raises ConnectionClosed: it is closed, or was while waiting for room.
        :raises Overloaded: there is no room, and the policy is ``refuse``.
        :raises ValueError: there never will be room.
        """
        if self.unsent.rules.policy is not OutboxPolicy.WAIT or (
            not self._waiting and (self.closed or self.unsent.fits(len(data)))
        ):
            self.send_nowait(data)
            return
        self._waiting += 1
        try:
            async with self._turn:  # first come, first served
                while not (self.closed or self.unsent.fits(len(data))):
                    self._room.close()
                    await self._room.wait()
                self.send_nowait(data)
        finally:
            self._waiting -= 1

    def send_nowait(self, data: bytes) -> None:
        """As :meth:`send`; under ``wait``, no room is :class:`~forebay.errors.Overloaded`."""
        if self.closed:
            raise ConnectionClosed("the client is closed, or closing")
        unsent = self.unsent
        if unsent.rules.policy is OutboxPolicy.DROP_OLDEST:
            unsent.put_dropping(data)
        elif unsent.fits(len(data)):
            unsent.put(data)
        else:
            self.refused += 1
            raise Overloaded("outbox", f"the outbox is full: {len(unsent)} messages, {unsent.size} bytes")
        self.settled.close()
        self._wake()

    def close(self) -> None:
        """Accept nothing more. What was accepted is still sent."""
        self.closed = True
        self._room.open()

    # Out of it

    def attach(self, conn: Connection) -> None:
        """Write to ``conn`` from now on."""
        self._conn = conn
        self._wake()

    def detach(self) -> None:
        """The connection is gone. What is not settled is written to the next one."""
        self._conn = None
        self.unsent.rewind()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _wake(self) -> None:
        """Write soon, and so join what is sent in one go. Never at once: within the delivery of messages the connection
        holds back what is written, and would seem to have sent it."""
        if self._due is None and self._conn is not None and self.unsent.waiting:
            self._due = asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Write as much as the kernel takes. Called when the connection has become writable, too."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        conn = self._conn
        while conn is not None and _flushed(conn):
            if not self._acknowledged:
                self.unsent.settle()
                self._made_room()
            if not self.unsent.waiting:
                break
            conn.write(Batch(self.unsent.take_batch()))

    def acknowledge(self, count: int) -> int:
        """The server has the oldest ``count`` messages that were written.

        :return: how many more it acknowledged than were written.
        :raises ValueError: ``count`` is negative.
        """
        if count < 0:
            raise ValueError(f"acknowledged {count} messages: must be at least 0")
        surplus = self.unsent.settle(count)
        self._made_room()
        return surplus

    def _made_room(self) -> None:
        self._room.open()
        if not len(self.unsent):
            self.settled.open()


def _flushed(conn: Connection) -> bool:
    """Whether the kernel has taken all that was written. A transport that failed has thrown it away instead."""
    return not (conn.closing or conn.transport.is_closing() or conn.write_buffer_size())
