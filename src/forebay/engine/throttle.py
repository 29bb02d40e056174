"""Waiting, in line and not for long, for what a limiter lets through."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from math import inf
from types import TracebackType
from typing import Any

from forebay.engine.loop import call_later, now
from forebay.errors import DeadlineExceeded, ForebayError, Overloaded, RetryClass
from forebay.policy.deadline import deadline as scope
from forebay.policy.limiters import Limiter

__all__ = ["Throttle"]

_LATE = 0.1
"""Of ``max_wait``: how much longer one who was let into the line may wait, when loop or limiter turn out slower."""

_SLIP = 0.01
"""Seconds. When the head of the line is later than was foreseen by so much, so are all behind it: each is looked at."""

_EARLY = 0.001  # seconds; timers of uvloop fire that much too early, and are not set for less again
_ROUNDING = 1e-6  # seconds; different, and not only by the rounding of floats


class _Waiter:
    """One who stands in line."""

    __slots__ = ("count", "error", "expected_at", "future", "in_time", "why")

    def __init__(self, count: int, expected_at: float, in_time: float, why: str) -> None:
        self.count = count
        self.expected_at = expected_at  # when it was last foreseen to have its turn
        self.in_time = in_time  # not to be kept waiting past this ...
        self.why = why  # ... because of this: "max_wait" or "deadline"
        self.error: ForebayError | None = None
        self.renew()

    def renew(self) -> None:
        """Wait anew."""
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Let its task run, unless it is about to anyway."""
        if not self.future.done():
            self.future.set_result(None)


class Throttle:
    """Lets through as much as its limiter does; others wait in line, first come first served::

        async with throttle:
            await call()

    A large request at the head of the line is not overtaken by small ones behind it. How long the line takes is
    known, so one who would wait for more than ``max_wait``, or past a deadline, is refused at once, and not after
    having waited in vain. Tokens are taken when their task runs, never for a task that may be cancelled before: so
    nothing is ever to be given back, and the limiter's bound holds for the moments at which tasks go on. One timer is
    set for the whole line. To be used from one loop. The limiter may be shared; those who are kept longer than was
    foreseen, since others take from it or it was made slower, are refused when it is clear that they wait in vain:
    after ``1.1 * max_wait`` at the latest (a loop that is a little late refuses nobody), or at their deadline.

    :param limiter: what is waited for. Change its rate through :meth:`set_rate`, so that the line hears of it.
    :param max_wait: seconds, at least 0. The default: most who wait longer than a second would rather be told.
    :param max_waiting: how many may be in line at once, at least 0. A thousand are about 1 MB of tasks, and more only
        wait for longer.
    :param name: of the limit, in errors.
    :param enabled: see :attr:`enabled`.
    """

    __slots__ = (
        "_acquired", "_ahead", "_cancelled", "_claimed", "_closed", "_due", "_enabled", "_held", "_refused", "_timer",
        "_waited", "_waited_seconds", "_waiting", "_woken", "limiter", "max_wait", "max_waiting", "name",
    )  # fmt: skip

    def __init__(
        self,
        limiter: Limiter,
        *,
        max_wait: float = 1.0,
        max_waiting: int = 1_000,
        name: str = "limiter",
        enabled: bool = True,
    ) -> None:
        if not max_wait >= 0:
            raise ValueError(f"max_wait {max_wait}: must be at least 0")
        if max_waiting < 0:
            raise ValueError(f"max_waiting {max_waiting}: must be at least 0")
        self.limiter = limiter
        self.max_wait = max_wait
        self.max_waiting = max_waiting
        self.name = name
        self._enabled = enabled
        self._closed = False
        self._held = not enabled  # there is somebody in line, or another reason to look closer
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._woken: OrderedDict[_Waiter, None] = OrderedDict()  # let in, and did not run since
        self._claimed = 0  # tokens of those
        self._ahead = 0  # tokens of both
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it fires
        self._acquired = self._waited = self._cancelled = 0
        self._waited_seconds = 0.0
        self._refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._enabled else "off"
        return f"<Throttle {self.name} {state} waiting={len(self)} acquired={self._acquired} of {self.limiter!r}>"

    def __len__(self) -> int:
        """How many are in line."""
        return len(self._waiting) + len(self._woken)

    def __bool__(self) -> bool:
        """True, also when nobody waits: a throttle is not a container."""
        return True

    @property
    def enabled(self) -> bool:
        """Whether it limits; may be set at any time. When it does not, everybody passes, those in line first, and the
        limiter is not asked."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        self._changed()

    async def acquire(self, count: int = 1, *, deadline: float | None = None) -> None:
        """Return when ``count`` tokens were taken. Where that raises, or is cancelled, none were.

        :param count: at least 1.
        :param deadline: on the clock of :func:`~forebay.engine.loop.now`. None: the current one
            (:class:`forebay.policy.deadline`), if there is any.
        :raises Overloaded: it would take too long (``retry_after`` says how long), too many wait, or it is closed.
        :raises DeadlineExceeded: the deadline has passed, at the call or, where the loop was late, in line.
        """
        if deadline is None:
            deadline = scope.current()
        if self._held:
            await self._wait_in_line(now(), count, deadline)
            return
        at = now()
        if at < deadline and not self.limiter.take(at, count):
            self._acquired += 1
            return
        await self._wait_in_line(at, count, deadline)

    def try_acquire(self, count: int = 1) -> bool:
        """Take ``count`` tokens if they are there, and nobody is in line for them. Whether they were taken."""
        if self._closed:
            self._refused["closed"] += 1
            return False
        if self._enabled and (self._held or self.limiter.take(now(), count)):
            self._refused["try"] += 1
            return False
        self._acquired += 1
        return True

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def set_rate(self, rate: float, burst: int) -> None:
        """Change the limiter's rate. Those in line who cannot have their turn in time by it are refused now.

        :raises ValueError: as the limiter says.
        """
        at = now()
        self.limiter.set_rate(rate, burst, at)
        self._review(at)
        self._changed()

    def close(self) -> None:
        """Refuse all who wait, and who will come. Again does nothing."""
        self._closed = True
        for waiter in (*self._woken, *self._waiting):
            if waiter.future.cancelled():  # and did not run since
                self._remove(waiter)
            else:
                self._send_away(waiter, self._error("closed", f"{self.name}: closed", None))
        self._changed()

    def statistics(self) -> dict[str, Any]:
        """Since it was made: calls that have ``acquired``, those of them that ``waited`` and for how many seconds
        together, those ``refused`` by reason and ``cancelled``. Now: how many are ``waiting``. And what the limiter
        says, where everybody who had to wait is counted as refused once, for not yet."""
        return {
            "enabled": self._enabled,
            "closed": self._closed,
            "waiting": len(self),
            "acquired": self._acquired,
            "waited": self._waited,
            "waited_seconds": self._waited_seconds,
            "cancelled": self._cancelled,
            "refused": dict(self._refused),
            "limiter": self.limiter.statistics(now()),
        }

    async def _wait_in_line(self, at: float, count: int, deadline: float) -> None:
        """:meth:`acquire`, where it is not at once."""
        if self._closed:
            raise self._error("closed", f"{self.name}: closed", None)
        if not self._enabled:
            self._acquired += 1
            return
        if at >= deadline:
            raise self._past_deadline()
        wait = self.limiter.wait(at, count, self._ahead)
        longest = min(self.max_wait, deadline - at)
        if wait == inf or wait > longest + _ROUNDING:
            raise self._too_long(wait, "max_wait" if longest == self.max_wait else "deadline")
        if len(self) >= self.max_waiting:
            raise self._error("max_waiting", f"{self.name}: {self.max_waiting} wait already", wait)
        latest = at + self.max_wait * (1 + _LATE)
        waiter = _Waiter(count, at + wait, min(latest, deadline), "deadline" if deadline < latest else "max_wait")
        self._waiting[waiter] = None
        self._ahead += count
        self._held = True
        try:
            if len(self._waiting) == 1:
                self._advance(at)
            await self._turn(waiter)
        except BaseException:  # cancelled, most of the time
            if waiter in self._waiting or waiter in self._woken:
                self._remove(waiter)
                self._changed()
            if waiter.error is None:
                self._cancelled += 1
            raise
        self._acquired += 1
        self._waited += 1
        self._waited_seconds += now() - at

    async def _turn(self, waiter: _Waiter) -> None:
        """Return when it is the waiter's turn, and it has taken its tokens."""
        while True:
            if waiter.future.done():
                await asyncio.sleep(0)  # behind those who were let in before and did not run since
            await waiter.future
            if waiter.error is not None:
                raise waiter.error
            if waiter in self._woken:
                if not self._enabled or not self.limiter.take(now(), waiter.count):
                    self._remove(waiter)
                    return
                waiter.renew()
                self._send_back()
            else:  # it was, and somebody took what it had been let in for
                waiter.renew()

    def _advance(self, at: float, least: float = 0.0) -> None:
        """Let in whose turn it is; set the timer for the next one.

        :param least: seconds that it is set to at least.
        """
        while self._waiting:
            waiter = next(iter(self._waiting))
            if waiter.why == "deadline" and at > waiter.in_time + _ROUNDING and self._enabled:
                self._send_away(waiter, self._past_deadline())
                continue
            wait = self.limiter.wait(at, waiter.count, self._claimed) if self._enabled else 0.0
            if wait:
                late = at + wait > waiter.in_time + _ROUNDING or at + wait > waiter.expected_at + _SLIP
                if late and self._review(at):
                    continue
                self._set_timer(at, max(wait, least))
                return
            self._waiting.popitem(last=False)
            self._woken[waiter] = None
            self._claimed += waiter.count
            waiter.wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _review(self, at: float) -> bool:
        """Refuse those who now cannot have their turn in time. Whether there was one."""
        ahead = self._claimed
        before = 0.0  # when the one before has its turn
        found = False
        for waiter in tuple(self._waiting):
            if waiter.future.cancelled():  # and did not run since
                continue
            wait = self.limiter.wait(at, waiter.count, ahead)
            waiter.expected_at = max(at + wait, before)
            if wait == inf or waiter.expected_at > waiter.in_time + _ROUNDING:
                self._send_away(waiter, self._too_long(wait, waiter.why))
                found = True
            else:
                ahead += waiter.count
                before = waiter.expected_at
        return found

    def _send_back(self) -> None:
        """All who were let in go on waiting, before the others and in their order: what was there for them is gone."""
        for waiter in reversed(self._woken):
            self._waiting[waiter] = None
            self._waiting.move_to_end(waiter, last=False)
        self._woken.clear()
        self._claimed = 0
        self._advance(now())

    def _changed(self) -> None:
        """After something that may be good for those who wait: let in whose turn it is now."""
        self._advance(now())
        self._set_held()

    def _set_held(self) -> None:
        self._held = bool(self._waiting or self._woken or self._closed or not self._enabled)

    def _send_away(self, waiter: _Waiter, error: ForebayError) -> None:
        """Refuse one who is in line."""
        self._remove(waiter)
        waiter.error = error
        waiter.wake()

    def _remove(self, waiter: _Waiter) -> None:
        if waiter in self._woken:
            del self._woken[waiter]
            self._claimed -= waiter.count
        else:
            del self._waiting[waiter]
        self._ahead -= waiter.count
        self._set_held()

    def _set_timer(self, at: float, wait: float) -> None:
        if self._timer is not None:
            if abs(at + wait - self._due) < _ROUNDING:
                return
            self._timer.cancel()
        self._due = at + wait
        self._timer = call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._advance(now(), least=_EARLY)

    def _past_deadline(self) -> DeadlineExceeded:
        self._refused["deadline"] += 1
        return DeadlineExceeded(f"{self.name}: the deadline has passed", inherited=True)

    def _too_long(self, wait: float, reason: str) -> Overloaded:
        if wait == inf:
            error = self._error("burst", str(self.limiter.refusal(wait)), None)
            error.retry = RetryClass.NEVER
            return error
        detail = f"{self.name}: {len(self)} wait already, and it would take {wait:.3g} s"
        return self._error(reason, f"{detail}, which is past the {reason.replace('_', ' ')}", wait)

    def _error(self, reason: str, message: str, retry_after: float | None) -> Overloaded:
        self._refused[reason] += 1
        return Overloaded(self.name, message, retry_after=retry_after, reason=reason.replace("_", "-"))
