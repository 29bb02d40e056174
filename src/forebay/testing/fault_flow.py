"""One direction of a connection through the fault proxy: what comes is read, held while it is under way, written."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable

from forebay.engine.loop import now
from forebay.testing.faults import NO_FAULTS, Faults

__all__ = ["LARGEST_HELD", "LEAST_HELD", "Flow"]

LEAST_HELD = 128 * 1024
"""Bytes a direction may hold when nothing delays them: all that a slow receiver makes the proxy keep."""

LARGEST_HELD = 16 * 1024 * 1024
"""Bytes a direction may hold at most: enough for 100 MB/s with a latency of 150 ms."""

_CHUNK = 64 * 1024
_OVERHEAD = 128  # bytes that a chunk takes besides its content
_SLOT = 0.01  # seconds: a limited bandwidth is dealt out in pieces of so much time
_CATCH_UP = 0.1  # seconds of bandwidth that may be made up for, when timers or the receiver were late
_LOOK_AGAIN = 0.1  # seconds after which a wait for bandwidth looks whether it was changed
_SOON = 0.0005  # seconds not worth a timer: uvloop's are in whole milliseconds


class Flow:
    """From ``source`` to ``sink``, with the faults of its direction, or none if this connection has drawn so.

    :param draw: the connection's number for :attr:`Faults.share`.
    :param left: after how many bytes more, of both directions, the connection is cut; None: never.
    :param end: called with the name of a fault (or ``cut_after``) when it ends the connection.
    """

    __slots__ = (
        "_armed",
        "_due",
        "_end",
        "_ended",
        "_filled",
        "_free_at",
        "_gate",
        "_left",
        "_random",
        "_room",
        "_timers",
        "_under_way",
        "draw",
        "faults",
        "forwarded",
        "held",
        "over",
        "rules",
        "shut",
        "sink",
        "source",
    )

    def __init__(
        self,
        faults: Faults,
        source: socket.socket,
        sink: socket.socket,
        *,
        draw: float,
        seed: str,
        left: Callable[[], int | None],
        end: Callable[[Flow, str], None],
    ) -> None:
        self.faults = faults
        self.source = source
        self.sink = sink
        self.draw = draw
        self.rules = NO_FAULTS
        self.forwarded = 0
        self.held = 0  # bytes that were read and not forwarded yet, and what keeping them takes
        self.shut = False  # the sink was told that nothing more comes
        self.over = False  # the source has said all, and the sink was told
        self._left = left
        self._end = end
        self._random = random.Random(seed)  # noqa: S311 - it shakes the latency, nothing is secret
        self._gate = asyncio.Event()
        self._gate.set()
        self._under_way: deque[tuple[float, bytes | None]] = deque()  # None: the source is broken
        self._due = 0.0  # when the last of it is
        self._ended = asyncio.Event()  # nothing more is written
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._free_at = 0.0
        self._armed: dict[str, float | None] = {"reset_after": None, "timeout": None}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.changed()

    def changed(self) -> None:
        """Do as the faults say from now on."""
        rules = self.rules = self.faults if self.has_faults else NO_FAULTS
        for name in self._armed:
            self._arm(name, getattr(rules, name))
        if rules.black_hole or rules.timeout is not None:
            if self._gate.is_set() and rules.black_hole:
                self.faults.counts["black_hole"] += 1
            self._gate.clear()
        else:
            self._gate.set()
        self._room.set()

    def _arm(self, name: str, seconds: float | None) -> None:
        if seconds == self._armed[name]:
            return
        self._armed[name] = seconds
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        if seconds is not None:
            self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._end, self, name)

    def close(self) -> None:
        """Let go of the timers."""
        for timer in self._timers.values():
            timer.cancel()

    def shut_sink(self) -> None:
        """Tell the sink that nothing more comes; what would have come is dropped."""
        if not self.shut:
            self.shut = True
            try:
                self.sink.shutdown(socket.SHUT_WR)
            except OSError:  # it is broken, which its reader finds out
                return

    @property
    def has_faults(self) -> bool:
        """Whether this connection is among the share that has."""
        return self.draw < self.faults.share

    async def passable(self) -> None:
        """Return when nothing holds what goes this way."""
        while not self._gate.is_set():
            await self._gate.wait()

    # In

    async def read(self) -> None:
        """Read to the end of what the source says, as long as there is room for it."""
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            await self.passable()
            while self.held >= self._most_held():
                self._room.clear()
                await self._room.wait()
            try:
                data = await loop.sock_recv(self.source, _CHUNK)
            except OSError:
                self._send_off(None)
                raise
            self._send_off(data)

    def _send_off(self, data: bytes | None) -> None:
        self._due = max(self._due, now() + self._delay())
        self._under_way.append((self._due, data))
        self.held += len(data or b"") + _OVERHEAD
        self._filled.set()

    async def heard_out(self, seconds: float) -> None:
        """The source is broken: return when the sink has all that it said before, or has not taken it so long after
        it could have."""
        due = max(self._due, now() + self.rules.latency)
        while (wait := due - now()) > _SOON:
            await asyncio.sleep(wait)
        await self.passable()
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:  # what breaks does not wait for those who are slow
            return

    def _delay(self) -> float:
        rules = self.rules
        delay = rules.latency
        if delay:
            rules.counts["latency"] += 1
        if rules.jitter:
            rules.counts["jitter"] += 1
            delay += rules.jitter * self._random.random()
        return delay

    def _most_held(self) -> float:
        """Twice what is under way at full bandwidth, within the bounds."""
        rules = self.rules
        if not (delay := rules.latency + rules.jitter):
            return LEAST_HELD
        if rules.bandwidth is None:
            return LARGEST_HELD
        return min(LARGEST_HELD, max(LEAST_HELD, 2 * delay * rules.bandwidth))

    # Out

    async def write(self) -> None:
        """Deliver what was read, each part when it is due."""
        try:
            await self._write()
        finally:
            self._ended.set()

    async def _write(self) -> None:
        while True:
            while not self._under_way:
                self._filled.clear()
                await self._filled.wait()
            due, data = self._under_way.popleft()
            while (wait := due - now()) > _SOON:
                await asyncio.sleep(wait)
            if not data:
                await self.passable()
                self.held -= _OVERHEAD
                if data is not None:
                    self.shut_sink()
                    self.over = True
                return
            await self._deliver(memoryview(data), due)
            self.held -= len(data) + _OVERHEAD
            self._room.set()

    async def _deliver(self, rest: memoryview, due: float) -> None:
        loop = asyncio.get_running_loop()
        while rest:
            count = await self._pace(len(rest), due)
            if self._is_shut():
                return
            count, last = self._allowed(count)
            part, rest = rest[:count], rest[count:]
            self.forwarded += count
            try:
                await loop.sock_sendall(self.sink, part)
            except OSError:
                if self._is_shut():
                    return
                raise
            if last is not None:
                self._end(self, last)
                await loop.create_future()  # until this is cancelled
            if self.rules.slice is not None:
                if rest:
                    self.rules.counts["slice"] += 1
                await self._pause()

    def _is_shut(self) -> bool:
        return self.shut  # which changes at any await

    def _piece(self, most: int) -> int:
        """How many bytes go together."""
        rules = self.rules
        if rules.bandwidth is not None:
            most = min(most, max(1, int(rules.bandwidth * _SLOT)))
        return most if rules.slice is None else min(most, rules.slice)

    async def _pause(self) -> None:
        await asyncio.sleep(0)
        began = now()
        while self.rules.slice is not None and (wait := began + self.rules.slice_pause - now()) > _SOON:
            await asyncio.sleep(min(wait, _LOOK_AGAIN))

    async def _pace(self, most: int, due: float) -> int:
        """Wait until a piece of at most so many bytes has passed, had it begun when the one before had, or when it was
        due, and nothing holds it; return how many bytes it is.

        What a timer was late is so made up for by the next one, up to a bound.
        """
        began = max(self._free_at, due, now() - _CATCH_UP)
        waited = False
        while True:
            await self.passable()
            count = self._piece(most)
            rate = self.rules.bandwidth
            self._free_at = began if rate is None else began + count / rate
            if rate is None or (wait := self._free_at - now()) <= _SOON:
                return count
            if not waited:
                waited = True
                self.rules.counts["bandwidth"] += 1
            await asyncio.sleep(min(wait, _LOOK_AGAIN))

    def _allowed(self, count: int) -> tuple[int, str | None]:
        """How many of ``count`` bytes still go, and which fault ends the connection then, if any."""
        last = None
        limits = {name: getattr(self.rules, name) for name in ("limit", "reset_after_bytes")}
        left = {name: most - self.forwarded for name, most in limits.items() if most is not None}
        if (of_both := self._left()) is not None:
            left["cut_after"] = of_both
        for name, most in left.items():
            if most <= count:
                last, count = name, max(0, most)
        return count, last
