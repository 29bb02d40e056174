"""How many calls at once a server takes before they only wait for each other: found out from their latencies."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

__all__ = ["Adaptive", "AdaptiveLimit"]

CLIP = 8.0  # times the baseline: what one call counts for at most, so that one outlier does not look like a queue
GROWTH = 1.5  # the target while there is no sign of a queue: past the knee of any server within seconds
LARGEST_CUT = 0.5  # of a window: what looks worse than that is known too badly to act on at once
FASTER = 0.8  # of the baseline: a used window must be that much below it to be more than noise
DROPS = 0.1  # the share of dropped calls that says nothing: those that had waited until shortly before their deadline
FOLLOW = 0.2  # the weight of a window at low load in the baseline
FULL = 0.8  # of the limit in flight in the mean: more calls are there than it lets in
KEPT = 0.9  # of the throughput, at half the limit: the other half was only a queue
LOOK_LATENCIES = 5  # a look is that long
LOOK_SAMPLES = 50  # at least, for a mean 14% off where the times are exponential
LOOK_SHARE = 40  # a look takes at most one part in so many of the time


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Rules of a concurrency limit that follows the server: see :class:`AdaptiveLimit` for how.

    :ivar minimum: it is never lower, at least 1. 4: with fewer there would hardly be a latency to learn from.
    :ivar maximum: it is never higher.
    :ivar initial: where it begins. 20: low enough for most servers, and four times that within some six windows.
    :ivar tolerance: how many times the latency without a queue is accepted, more than 1. 1.3: below it, noise looks
        like a queue; far above, the queue stands in the server, where nobody can put the urgent ones first.
    :ivar smoothing: the share of the way to its target that the limit goes in one window, above 0 and up to 1.
    :ivar window: seconds at least between two changes; twice the latency, where that is more.
    :ivar samples: calls at least between two changes. 10 of them with exponential times have a mean 30% off.
    :ivar look_every: seconds after which half the limit is tried for a moment, to measure the latency without a queue,
        where the load has not shown it since.
    """

    minimum: int = 4
    maximum: int = 1000
    initial: int = 20
    tolerance: float = 1.3
    smoothing: float = 0.5
    window: float = 0.25
    samples: int = 10
    look_every: float = 30.0

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise ValueError(f"minimum {self.minimum}: must be at least 1")
        if not self.minimum <= self.initial <= self.maximum:
            raise ValueError(f"initial {self.initial}: must be {self.minimum} (minimum) to {self.maximum} (maximum)")
        if not (isfinite(self.tolerance) and self.tolerance > 1):
            raise ValueError(f"tolerance {self.tolerance}: must be more than 1")
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing {self.smoothing}: must be above 0 and at most 1")
        if not (isfinite(self.window) and self.window > 0):
            raise ValueError(f"window {self.window}: must be more than 0 seconds")
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: must be at least 1")
        if not self.look_every > 0:
            raise ValueError(f"look_every {self.look_every}: must be more than 0 seconds")


class AdaptiveLimit:
    """A concurrency limit by the latency gradient. ``limit`` is what holds now.

    A server with room answers in the same time however many calls it has. Past its knee each further call only makes
    all of them wait: by Little's law (calls at once = throughput x latency) at a constant throughput the latency grows
    with the number of calls. So the latency says where the knee is, against a *baseline*, the latency without a queue.

    **Each window** (``window`` seconds, two latencies and ``samples`` calls at least), with the mean latency
    ``mean`` (each call counts for at most 8 baselines) and the share ``dropped`` of the calls that were::

        kept     = min(1, (1 - dropped) / 0.9)          a tenth of dropped calls is not the server's fault
        gradient = min(1, tolerance * baseline / mean) * kept       at least 0.5
        target   = max(limit, throughput * mean) * gradient      gradient < 1, and no more than the limit
                   limit * 1.5               no sign of a queue: mean below (1 + tolerance) / 2 baselines
                   limit + sqrt(limit)       else
        limit   += smoothing * (target - limit)

    It grows only while it is used, which is when more than half of it was in flight at some moment of the window, and
    an unused one falls only when calls are dropped.

    **The baseline** is the mean at no more than half the limit. While the limit is not used it follows the windows as
    they come. Where it has been used for ``look_every`` seconds, a *look* is taken: half the limit for about five
    latencies, the first two of which do not count, since the queue goes by in them. Whoever halves and keeps at least
    90% of the throughput, with the half in use, was beyond the knee by half: the limit stays there, and the next look
    comes at once. A look that finds half to twice the baseline is averaged with it, against noise. A
    window that is clearly faster lowers the baseline without a look. Nothing else raises it: a baseline that follows
    the latency while there is a queue takes the queue for normal in the end.

    A look is also taken when the limit has doubled, or has fallen by half, since the last one. If it was the
    server that got slower, fewer calls have not made it faster: the look finds the new baseline, and the limit comes
    back.

    Sources: TCP Vegas (Brakmo, Peterson 1995) for the idea; the gradient of Netflix' concurrency-limits (2018) and the
    periodic minimum of Envoy's adaptive concurrency filter; halving to see the path without a queue is BBR's ProbeRTT.
    The mean in place of a low percentile, since it is the mean that Little's law is about, and since with latencies of
    two kinds a percentile jumps between them.
    """

    __slots__ = (
        "_before",
        "_began",
        "_count",
        "_dropped",
        "_ends_at",
        "_exact",
        "_highest",
        "_look_at",
        "_look_began",
        "_looked",
        "_looking",
        "_needed",
        "_peak",
        "_settles_at",
        "_sum",
        "baseline",
        "latency",
        "limit",
        "looks",
        "rules",
    )

    def __init__(self, rules: Adaptive) -> None:
        self.rules = rules
        self.limit = rules.initial
        self.baseline = 0.0  # seconds; 0.0: not known yet
        self.latency = 0.0  # seconds: the mean of the last window
        self.looks = 0
        self._exact = float(rules.initial)
        self._highest = self._looked = self._exact  # the largest since the last look, and the one then
        self._looking = False
        self._look_at = 0.0
        self._look_began = 0.0
        self._before = 0.0  # calls per second when the look began
        self._began = 0.0  # when the window did
        self._settles_at = -1.0  # before the first call
        self._ends_at = 0.0
        self._needed = rules.samples
        self._sum = 0.0
        self._count = self._dropped = self._peak = 0

    def observe(self, seconds: float, in_flight: int, dropped: bool, now: float) -> None:
        """A call has ended. ``limit`` may be another one after that.

        :param seconds: how long it took.
        :param in_flight: how many there were with it, before it ended.
        :param dropped: it was not answered: it timed out, or the server had no place for it. One that failed for
            another reason says nothing about load, and is not to be reported.
        """
        if in_flight > self._peak:
            self._peak = in_flight
        if now < self._settles_at:
            return
        if self._settles_at < 0:  # the first calls to end are the short ones
            self._began = self._settles_at = now + self.rules.window
            return
        baseline = self.baseline
        if dropped:
            self._dropped += 1
            if seconds < baseline:  # it would have taken at least that
                seconds = baseline
        if baseline and seconds > CLIP * baseline:
            seconds = CLIP * baseline
        self._sum += seconds
        self._count += 1
        if now >= self._ends_at and self._count >= self._needed:
            self._window_ended(now)

    def statistics(self) -> dict[str, Any]:
        """What it knows, in seconds and calls."""
        return {
            "limit": self.limit,
            "baseline": self.baseline,
            "latency": self.latency,
            "looking": self._looking,
            "looks": self.looks,
        }

    def _window_ended(self, now: float) -> None:
        mean = self._sum / self._count
        used = 2 * self._peak > self.limit
        full = self._peak >= self.limit
        throughput = self._count / max(now - self._began, 1e-9)
        if mean <= 0:
            mean = 1e-9  # a clock too coarse for the calls; all that counts is a ratio
        if self._looking:
            self._look_ended(mean, throughput, now)
        elif not self.baseline:
            if self._dropped < self._count:  # else it is no latency, only a patience
                self.baseline = mean
                self._look_at = now if used else now + self.rules.look_every
        else:
            self._adjust(mean, throughput * mean, used, now)
            moved = 2 * self._exact < self._highest or self._exact > 2 * self._looked
            if used and (moved or now >= self._look_at):
                self._look(mean, throughput if full else inf, now)  # not full: half may be all that is asked for
        self.latency = mean
        self._sum = 0.0
        self._count = self._dropped = self._peak = 0
        if not self._looking:
            self._needed = self.rules.samples
            self._began = now
            self._ends_at = now + max(self.rules.window, 2 * mean)

    def _adjust(self, mean: float, in_flight: float, used: bool, now: float) -> None:
        rules, limit = self.rules, self._exact
        kept = min(1.0, (1 - self._dropped / self._count) / (1 - DROPS))
        if not used:
            self.baseline += FOLLOW * (mean - self.baseline)
            self._look_at = now + rules.look_every
            gradient = kept
        else:
            if mean < FASTER * self.baseline:
                self.baseline += rules.smoothing * (mean - self.baseline)
            gradient = min(1.0, rules.tolerance * self.baseline / mean) * kept
        if gradient < 1:
            target = min(limit, max(limit, in_flight) * max(LARGEST_CUT, gradient))
        elif not used:
            target = limit
        elif mean < (1 + rules.tolerance) / 2 * self.baseline:
            target = limit * GROWTH
        else:
            target = limit + sqrt(limit)
        self._set(limit + rules.smoothing * (target - limit))
        self._highest = max(self._highest, self._exact)

    def _look(self, mean: float, throughput: float, now: float) -> None:
        self.looks += 1
        self._looking = True
        self._look_began = now
        self._before = throughput
        self.limit = max(self.rules.minimum, int(self._exact / 2))
        self._needed = max(LOOK_LATENCIES * self.limit, LOOK_SAMPLES)
        self._began = self._settles_at = now + 2 * mean
        self._ends_at = self._settles_at + max(self.rules.window / 2, mean)

    def _look_ended(self, mean: float, throughput: float, now: float) -> None:
        rules, in_flight = self.rules, throughput * mean
        self._looking = False
        self._look_at = now + max(rules.look_every, LOOK_SHARE * (now - self._look_began))
        if self._dropped < self._count:
            if 0.5 < mean / self.baseline < 2:  # the same, but for noise
                mean = (mean + self.baseline) / 2
            self.baseline = mean
        if in_flight >= FULL * self.limit and throughput >= KEPT * self._before and self.limit < int(self._exact):
            self._exact = float(self.limit)
            self._look_at = now
        self._set(self._exact)
        self._highest = self._looked = self._exact

    def _set(self, exact: float) -> None:
        self._exact = min(max(exact, float(self.rules.minimum)), float(self.rules.maximum))
        self.limit = round(self._exact)
