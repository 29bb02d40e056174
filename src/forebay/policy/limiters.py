"""How fast one thing may be done: limiters that guard one thing each. Those that keep a count for each client are in
:mod:`forebay.policy.limits`."""

from __future__ import annotations

from collections import deque
from math import inf, isfinite, sqrt, ulp
from typing import Any, Protocol

from forebay.policy.verdict import Refused

__all__ = ["GCRA", "Limiter", "SlidingWindow", "TokenBucket", "WarmUp"]

_ROUNDING = 1e-9
"""Seconds. Who comes so little too early was on time, but for the rounding of sums of floats. What is let through by
that is made up for: the next one waits from when it should have been."""


class Limiter(Protocol):
    """What all limiters can do. ``now`` is seconds on a clock that never goes back."""

    enabled: bool
    """Whether it limits. Otherwise everything is let through, counted, and forgotten."""

    def take(self, now: float, count: int = 1) -> float:
        """Take ``count`` tokens, all of them or none.

        :param count: at least 1.
        :return: 0.0: they were taken. Else nothing was, and it is the seconds until they could be, if nobody else takes
            any: after so long they can, and not before. ``inf``: never, since it is more than ``burst``.
        """
        ...

    def wait(self, now: float, count: int = 1, ahead: int = 0) -> float:
        """What :meth:`take` would say, but nothing is taken or counted.

        :param ahead: tokens that others take first, each as soon as it is there.
        """
        ...

    def refusal(self, wait: float) -> Refused:
        """The reason to be given to who is not to wait for the ``wait`` seconds that :meth:`take` said.

        The reasons are ``rate``: not yet; ``burst``: never, it is more than may come at once.
        """
        ...

    def set_rate(self, rate: float, burst: int, now: float) -> None:
        """From ``now`` on let through ``rate`` per second, ``burst`` at once. What was taken stays taken, and what is
        left is kept as far as there is place for it: a larger burst is not a present."""
        ...

    def statistics(self, now: float | None = None) -> dict[str, Any]:
        """``taken`` tokens and ``refused`` takes by reason since it was made; the ``level``, which is how many tokens
        could be taken ``now`` (where that is not given: when something was taken last), and ``rate``, ``burst``,
        ``enabled``."""
        ...


class _Counts:
    """What all limiters count, and their words."""

    __slots__ = ("_never", "_refused", "_seen", "burst", "enabled", "rate", "taken")

    def __init__(self, rate: float, burst: int, enabled: bool) -> None:
        self.enabled = enabled
        self.taken = 0
        self._refused = self._never = 0
        self._seen = 0.0  # when something was taken last
        self._set(rate, burst)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} rate={self.rate:g} burst={self.burst} taken={self.taken}>"

    def _set(self, rate: float, burst: int) -> None:
        if not (rate > 0 and isfinite(rate)):
            raise ValueError(f"rate {rate}: must be above 0 and finite")
        if burst < 1:
            raise ValueError(f"burst {burst}: must be at least 1")
        self.rate = rate
        self.burst = burst

    def wait(self, now: float, count: int = 1, ahead: int = 0) -> float:
        """Seconds until ``count`` can be taken, after ``ahead`` others: see :class:`Limiter`."""
        raise NotImplementedError

    def level(self, now: float) -> float:
        """How many tokens could be taken ``now``."""
        raise NotImplementedError

    def refusal(self, wait: float) -> Refused:
        """Why not, for people and for counters: see :class:`Limiter`."""
        if wait == inf:
            return Refused("limiter", "burst", f"more than {self.burst} at once are never let through")
        detail = f"{self.rate:g} per second and {self.burst} at once are let through, the next in {wait:.3g} s"
        return Refused("limiter", "rate", detail, wait)

    def statistics(self, now: float | None = None) -> dict[str, Any]:
        """Counts, and the level: see :class:`Limiter`."""
        return {
            "enabled": self.enabled,
            "rate": self.rate,
            "burst": self.burst,
            "level": self.level(self._seen if now is None else max(now, self._seen)),
            "taken": self.taken,
            "refused": {"rate": self._refused, "burst": self._never},
        }

    def _refuse(self, now: float, count: int) -> float:
        """Count a take for which there is not enough; how long it would take."""
        wait = self.wait(now, count)
        if wait == inf:
            self._never += 1
        else:
            self._refused += 1
        return wait


class TokenBucket(_Counts):
    """A bucket of ``burst`` tokens, full at first, into which ``rate`` tokens per second flow until it is full. In no
    interval are more let through than ``burst + rate * its length``.

    It is kept as one number, the time at which it is full again. That is the Generic Cell Rate Algorithm (ITU-T I.371,
    annex A), seen from the other side: its theoretical arrival time is this number, its increment ``1 / rate`` and its
    limit ``(burst - 1) / rate``. Both let through the same at the same times, so ``GCRA`` is another name of this
    class.

    :param rate: tokens per second, above 0.
    :param burst: tokens at once after a quiet time, at least 1. With 1, takes are ``1 / rate`` seconds apart.
    """

    __slots__ = ("_full_at", "_interval", "_rounding")

    def __init__(self, rate: float, burst: int, *, enabled: bool = True) -> None:
        super().__init__(rate, burst, enabled)
        self._full_at = -inf

    def _set(self, rate: float, burst: int) -> None:
        super()._set(rate, burst)
        self._interval = 1.0 / rate
        self._rounding = min(_ROUNDING, self._interval / 2)  # never a whole token

    def take(self, now: float, count: int = 1) -> float:
        """Take ``count`` tokens, or say how long until they are there: see :class:`Limiter`."""
        if not self.enabled:
            self.taken += count
            return 0.0
        full_at = self._full_at
        if full_at < now:
            full_at = now
        if count < 1 or full_at + (count - self.burst) * self._interval - now > self._rounding:
            return self._refuse(now, count)
        self._full_at = full_at + count * self._interval
        self._seen = now
        self.taken += count
        return 0.0

    def wait(self, now: float, count: int = 1, ahead: int = 0) -> float:
        """Seconds until ``count`` can be taken, exact also with others ``ahead``: see :class:`Limiter`."""
        if count < 1:
            raise ValueError(f"count {count}: must be at least 1")
        if not self.enabled:
            return 0.0
        if count > self.burst:
            return inf
        at = max(self._full_at, now) + (ahead + count - self.burst) * self._interval
        wait = at - now
        return _reaching(at, now) if wait > self._rounding else 0.0

    def level(self, now: float) -> float:
        """How many tokens are in the bucket; a fraction is one on its way."""
        return max(0.0, self.burst - max(0.0, self._full_at - now) * self.rate)

    def set_rate(self, rate: float, burst: int, now: float) -> None:
        """Change both: see :class:`Limiter`."""
        level = self.level(now)
        self._set(rate, burst)
        self._full_at = now + max(0.0, burst - level) / rate


GCRA = TokenBucket
"""The Generic Cell Rate Algorithm of ITU-T I.371: the same thing as a token bucket, under the name that telephony
gave it."""


class SlidingWindow(_Counts):
    """At most ``limit`` in any ``window`` seconds, wherever the window begins. For those whom a contract holds to a
    count per time ("600 calls per minute"); a bucket of 600 lets through nearly 1,200 in its first minute.

    It keeps a log of what was taken, and that bound is exact: something taken at ``t`` stops to count at ``t +
    window``. Takes less than ``window * precision`` apart share an entry of the log, and all of it stops to count
    with the last of them. So memory is at most ``1 / precision + 1`` entries, whatever ``limit`` is, and what may be
    taken again comes late by less than ``window * precision``, never early. (The usual counter of two fixed windows
    takes what came in the one before as spread evenly over it, and lets through up to twice the limit in a window
    when it was not.)

    As a limiter like the others its ``rate`` is ``limit / window`` and its ``burst`` is ``limit``. What :meth:`wait`
    says of others ``ahead`` is exact if they take one token each, and farther apart than the precision; else it may
    be too early, by the precision for each window.

    :param limit: tokens, at least 1.
    :param window: seconds, above 0.
    :param precision: of the window, above 0 and at most 1. 1%: a hundred entries, and nobody notices.
    """

    __slots__ = ("_expires_at", "_log", "_newest", "_shared_until", "_used", "precision", "window")

    def __init__(self, limit: int, window: float, *, precision: float = 0.01, enabled: bool = True) -> None:
        if limit < 1:
            raise ValueError(f"limit {limit}: must be at least 1")
        if not (window > 0 and isfinite(window)):
            raise ValueError(f"window {window}: must be above 0 and finite")
        if not 0 < precision <= 1:
            raise ValueError(f"precision {precision}: must be above 0, at most 1")
        super().__init__(limit / window, limit, enabled)
        self.window = float(window)
        self.precision = precision
        self._log: deque[list[Any]] = deque()  # [when the last of them was taken, how many], oldest first
        self._newest: list[Any] = []
        self._used = 0  # the sum of the log
        self._expires_at = inf  # when the oldest entry stops to count, or before
        self._shared_until = -inf  # until when takes are added to the newest entry

    @property
    def limit(self) -> int:
        """Tokens in any window; another name of ``burst``."""
        return self.burst

    def take(self, now: float, count: int = 1) -> float:
        """Take ``count`` tokens, or say how long until they are there: see :class:`Limiter`."""
        if not self.enabled:
            self.taken += count
            return 0.0
        if now >= self._expires_at:
            self._expire(now)
        used = self._used + count
        if used > self.burst or count < 1:
            return self._refuse(now, count)
        self._used = used
        self._seen = now
        self.taken += count
        if now < self._shared_until:
            newest = self._newest
            newest[0] = now
            newest[1] += count
        else:
            self._append(now, count)
        return 0.0

    def wait(self, now: float, count: int = 1, ahead: int = 0) -> float:
        """Seconds until ``count`` can be taken: see :class:`Limiter`."""
        if count < 1:
            raise ValueError(f"count {count}: must be at least 1")
        if not self.enabled:
            return 0.0
        if count > self.burst:
            return inf
        if now >= self._expires_at:
            self._expire(now)
        windows, needed = divmod(ahead + count - 1, self.burst)  # who comes a whole limit later comes a window later
        free = self.burst - self._used
        at = now
        for taken_at, taken in self._log:
            if free > needed:
                break
            free += taken
            at = taken_at + self.window
        at += windows * self.window
        return _reaching(at, now) if at > now else 0.0

    def level(self, now: float) -> float:
        """How many could be taken now."""
        if now >= self._expires_at:
            self._expire(now)
        return float(max(0, self.burst - self._used))

    def set_rate(self, rate: float, burst: int, now: float) -> None:
        """``burst`` in any ``burst / rate`` seconds. A longer window does not know of what the shorter one has
        forgotten."""
        self._expire(now)
        self._set(rate, burst)
        self.window = burst / rate
        self._shared_until = -inf
        self._expire(now)

    def _append(self, now: float, count: int) -> None:
        self._newest = [now, count]
        self._log.append(self._newest)
        self._shared_until = now + self.window * self.precision
        if len(self._log) == 1:
            self._expires_at = now + self.window - _ROUNDING

    def _expire(self, now: float) -> None:
        """Forget what counts no more."""
        log = self._log
        rounding = min(_ROUNDING, self.window / 2)
        while log and log[0][0] + self.window - now <= rounding:
            self._used -= log.popleft()[1]
        self._expires_at = log[0][0] + self.window - rounding if log else inf
        if not log:
            self._shared_until = -inf


class WarmUp(_Counts):
    """A token bucket that fills slowly while it is cold, for what must not have its full load at once: an empty
    cache, a pool without connections, a program whose code was just loaded. The idea is that of Guava's
    ``SmoothWarmingUp``.

    Cold, ``rate / cold_factor`` tokens per second flow in; warm, ``rate``. While the bucket is not full, so while it is
    used, it gets warm: the flow grows linearly with time, from cold to warm in ``warm_up`` seconds. While it is full it
    gets cold, as fast as that. It begins full and cold. So:

    - under as much load as it lets through it is warm after ``warm_up`` seconds, and has let through
      ``(1 + 1 / cold_factor) / 2`` of what a warm one would have, beside the ``burst``;
    - left alone it is cold again ``warm_up`` seconds after it was full;
    - under a steady load of ``u`` per second the flow goes to about ``2 * u``, between the bounds: there it is full
      half of the time. A small load does not make it warm, and it always has room for twice what it has;
    - in no interval are more let through than ``burst + rate * its length``.

    The ``burst`` is there when it is cold, too: choose a small one.

    :param rate: tokens per second when warm, above 0.
    :param burst: tokens at once, at least 1.
    :param warm_up: seconds from cold to warm, above 0.
    :param cold_factor: above 1. How much slower it is when cold; 3 is Guava's.
    """

    __slots__ = ("_at", "_cold_rate", "_flow", "_level", "_rounding", "_slope", "cold_factor", "warm_up")

    def __init__(
        self, rate: float, burst: int, warm_up: float, cold_factor: float = 3.0, *, enabled: bool = True
    ) -> None:
        if not (warm_up > 0 and isfinite(warm_up)):
            raise ValueError(f"warm_up {warm_up}: must be above 0 and finite")
        if not (cold_factor > 1 and isfinite(cold_factor)):
            raise ValueError(f"cold_factor {cold_factor}: must be above 1 and finite")
        self.warm_up = warm_up
        self.cold_factor = cold_factor
        super().__init__(rate, burst, enabled)
        self._level = float(burst)
        self._flow = self._cold_rate  # tokens per second that flow in ...
        self._at = -inf  # ... at this time

    def _set(self, rate: float, burst: int) -> None:
        super()._set(rate, burst)
        self._cold_rate = rate / self.cold_factor
        self._slope = (rate - self._cold_rate) / self.warm_up
        self._rounding = min(0.5, rate * _ROUNDING + burst * 1e-12)  # tokens; never a whole one

    def take(self, now: float, count: int = 1) -> float:
        """Take ``count`` tokens, or say how long until they are there: see :class:`Limiter`."""
        if not self.enabled:
            self.taken += count
            return 0.0
        if now > self._at:
            self._advance(now)
        left = self._level - count
        if left < -self._rounding or count < 1:
            return self._refuse(now, count)
        self._level = left
        self._seen = now
        self.taken += count
        return 0.0

    def wait(self, now: float, count: int = 1, ahead: int = 0) -> float:
        """Seconds until ``count`` can be taken, exact also with others ``ahead``: see :class:`Limiter`."""
        if count < 1:
            raise ValueError(f"count {count}: must be at least 1")
        if not self.enabled:
            return 0.0
        if count > self.burst:
            return inf
        if now > self._at:
            self._advance(now)
        missing = ahead + count - self._level
        if missing <= self._rounding:
            return 0.0
        seconds = self._seconds_for(missing, self._flow)
        return seconds + ulp(now + seconds)  # so that it is there then, however now + seconds is rounded

    def level(self, now: float) -> float:
        """How many tokens are in the bucket; a fraction is one on its way."""
        if now > self._at:
            self._advance(now)
        return max(0.0, self._level)

    def warmth(self, now: float) -> float:
        """From 0.0, cold, to 1.0, warm."""
        if now > self._at:
            self._advance(now)
        return (self._flow - self._cold_rate) / (self.rate - self._cold_rate)

    def set_rate(self, rate: float, burst: int, now: float) -> None:
        """Change both; it stays as warm as it is. See :class:`Limiter`."""
        warmth = self.warmth(now)
        self._set(rate, burst)
        self._flow = self._cold_rate + warmth * (rate - self._cold_rate)
        self._level = min(self._level, float(burst))

    def statistics(self, now: float | None = None) -> dict[str, Any]:
        """As of all limiters, and the ``warmth``."""
        return super().statistics(now) | {"warmth": self.warmth(self._at)}

    def _advance(self, now: float) -> None:
        """Let tokens flow in, and the flow change, until ``now``."""
        seconds = now - self._at
        self._at = now
        flow = self._flow
        missing = self.burst - self._level
        if missing > 0.0:
            if flow == self._cold_rate and seconds * flow >= 2.0 * missing:  # full for longer than not, so still cold
                self._level = float(self.burst)
                return
            rate = self.rate
            warmer = flow + self._slope * seconds
            if warmer <= rate:
                tokens = seconds * (flow + warmer) * 0.5
            else:
                warm_in = (rate - flow) / self._slope
                tokens = warm_in * (flow + rate) * 0.5 + (seconds - warm_in) * rate
                warmer = rate
            if tokens < missing:
                self._level += tokens
                self._flow = warmer
                return
            self._level = float(self.burst)
            at_full = sqrt(flow * flow + 2.0 * self._slope * missing)  # the flow when it was full: v*v = u*u + 2*a*s
            if at_full > rate:
                seconds = (tokens - missing) / rate
                flow = rate
            else:
                seconds -= 2.0 * missing / (flow + at_full)
                flow = at_full
        self._flow = max(self._cold_rate, flow - self._slope * seconds)

    def _seconds_for(self, tokens: float, flow: float) -> float:
        """How long ``tokens`` take to flow in, if it is not full before, from a flow of ``flow`` now."""
        warm_in = (self.rate - flow) / self._slope
        by_then = warm_in * (flow + self.rate) / 2
        if tokens >= by_then:
            return warm_in + (tokens - by_then) / self.rate
        return 2 * tokens / (flow + sqrt(flow * flow + 2 * self._slope * tokens))


def _reaching(at: float, now: float) -> float:
    """The seconds that, added to ``now``, are not before ``at``, however that is rounded."""
    wait = at - now
    return wait if now + wait >= at else wait + ulp(at)
