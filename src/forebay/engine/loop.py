"""The event loop, its clock, and the few primitives of asyncio that the rest of Forebay uses.

No other package imports asyncio: what they need of it is exported here and in :mod:`forebay.engine.tasks`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import structlog

from forebay.engine.corks import Corks
from forebay.policy.timers import Timed, TimerWheel

__all__ = [
    "RESOLUTION",
    "TURN",
    "Cancelled",
    "Deadline",
    "Ticker",
    "call_later",
    "now",
    "run",
    "sleep",
    "ticker",
    "timeout",
    "tune_allocator",
]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T")

RESOLUTION = 0.1
"""Seconds per tick of the loop's timer wheel."""

TURN = 1024 * 1024
"""Bytes that handlers send, all together, before the loop has its turn. Whoever sends on and on to a peer that takes it
all, or is gone, never waits otherwise: nobody else would be served, and nobody would hear that it is gone."""

Cancelled = asyncio.CancelledError
sleep = asyncio.sleep
timeout = asyncio.timeout

now = time.monotonic
"""Seconds on the clock that loops, deadlines and timers share. It starts anywhere and never goes back."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def call_later(seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    """Call ``callback`` on the running loop in ``seconds``, unless what is returned is cancelled. For what a
    :class:`Ticker` is too coarse for."""
    return asyncio.get_running_loop().call_later(seconds, callback)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a new loop to its end and return its result.

    The loop is uvloop's where that is installed, else the standard library's; the environment variable
    ``FOREBAY_LOOP=asyncio`` forces the latter. The process may then open as many descriptors as its hard limit allows:
    a connection is one, and the usual soft limit of 1024 is for programs that use ``select``.
    """
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if os.environ.get("FOREBAY_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # some kernels allow less than they say
            log.debug("descriptor limit not raised", soft=soft, hard=hard)


def tune_allocator() -> bool:
    """Keep freed memory for the next read instead of giving it back each time. Called once, when a worker starts.

    glibc maps every block past 128 KiB anew and trims its heap at every chance; a server that reads and writes buffers
    all day then spends more time in page faults than in its own code. Blocks up to 1 MiB now come from the heap, which
    keeps up to 8 MiB free at its top.

    :return: whether it took effect; ``False`` on a C library without ``mallopt``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 20)) and bool(mallopt(_M_TRIM_THRESHOLD, 8 << 20))


class Deadline(Timed, Protocol):
    """A timed entry whose deadline is stored in it."""

    expires_at: float


class Ticker(TimerWheel[Timed]):
    """A loop's timer wheel, driven by one timer of the loop per tick, and only while the wheel holds something.

    ``done`` is a future that is done: what is returned, instead of a coroutine, where there is nothing to wait for.
    ``corks`` are the connections whose writes wait for the end of the turn.
    After the loop has stood still for longer than a tick, what expired meanwhile is looked at a tick later, when what
    peers had sent was read.
    ``credit`` is how many bytes more may be sent by who never waits, before the loop has its turn: see :data:`TURN`.
    """

    __slots__ = ("__weakref__", "_due", "_gave_way", "_ticking", "corks", "credit", "done")

    def __init__(self) -> None:
        super().__init__(RESOLUTION, now())
        self._ticking = False
        self._due = 0.0  # when the next tick is
        self._gave_way = False
        self.corks = Corks()
        self.credit = TURN
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.set_result(None)

    async def turn(self) -> None:
        """Let the loop have its turn, where the credit is used up."""
        if self.credit < 0:
            self.credit = TURN
            await asyncio.sleep(0)

    def read(self) -> float:
        """The time on the wheel's clock, up to a tick behind :func:`now`: within a tick, all get the same object."""
        if not self._ticking:
            self.advance(now())  # the wheel is empty; its clock had stopped
        return self.now

    def arm(self, entry: Deadline, seconds: float) -> None:
        """Let ``entry`` expire in ``seconds``, or up to two ticks later, never earlier. It is in no other wheel."""
        entry.expires_at = self.read() + seconds + RESOLUTION
        self.hold(entry)

    def hold(self, entry: Timed) -> None:
        """Let ``entry`` expire at its ``expires_at``, or up to a tick later."""
        if not self._ticking:
            self.read()
            self._ticking = True
            self._tick_in(RESOLUTION)
        self.add(entry)

    def _tick_in(self, seconds: float) -> None:
        self._due = now() + seconds
        asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        at = now()
        late = self._gave_way = at - self._due > RESOLUTION and not self._gave_way
        for entry in self.advance(at):
            if late:  # timers come before sockets in a turn: what its peer has sent is to be read first
                self.add(entry)
                continue
            try:
                entry.on_expired()
            except Exception:
                log.exception("timer failed", entry=repr(entry))  # the other entries must have their turn
        if self:
            self._tick_in(RESOLUTION)
        else:
            self._ticking = False


_tickers: WeakKeyDictionary[asyncio.AbstractEventLoop, Ticker] = WeakKeyDictionary()


def ticker() -> Ticker:
    """The running loop's ticker."""
    loop = asyncio.get_running_loop()
    found = _tickers.get(loop)
    if found is None:
        found = _tickers[loop] = Ticker()
    return found
