"""How many calls at once a server takes before they only wait for each other: found out from their latencies."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

__all__ = ["Adaptive", "AdaptiveLimit"]

CAREFUL = 1.2  # the target, in limits, at most: while there was a queue a few windows ago
CERTAIN = 1.5  # standard errors: a window that is nearer to what is wanted goes on
CLIP = 8.0  # times the baseline: what one call counts for at most, so that one outlier does not look like a queue
DIFFERENT = 2.0  # standard errors: a look that is farther from the baseline takes its place
DROPS = 0.1  # the share of refused calls that says nothing
ENOUGH = 100  # calls, for a mean 10% off where the times are exponential: a window that long does not go on
FALLEN = 0.5  # of the limit at the last look, or of a higher one since: time for another
FASTER = 3.0  # standard errors: a window that is so far below the baseline lowers it
FULL = 0.8  # of the limit in flight in the mean: more calls are there than it lets in
GROWTH = 2.0  # the same as CAREFUL, after that: past the knee of any server within seconds
HEADROOM = 0.5  # of the baseline, by the square root of the limit: what the noise of few calls may look like
KEPT = 0.9  # of the throughput, at half the limit: the other half was only a queue
LARGEST_CUT = 0.5  # of a window: what looks worse than that is known too badly to act on at once
LESS, MEMORY = 30, 300  # calls that the baseline is the mean of, at most: where it was clearly too high, and else
LOOK_LATENCIES = 5  # a look is that long
LOOK_SAMPLES = 80  # at least, for a mean 11% off where the times are exponential
LOOK_SHARE = 40  # a look takes at most one part in so many of the time, a tenth where the limit has fallen
PATIENCE = 8  # residual times: a look waits no longer for those that were there before
REFUSED = 3.0  # baselines: what a refused call counts for
CUT_SHORT = 2.0  # baselines: a call that was dropped earlier than that was refused, and is not a slow one
SMALL = 0.1  # of the limit: after a larger step those who were there before it go by first
STREAK = 3  # windows in a row without a queue, after which it grows as at the start


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Rules of a concurrency limit that follows the server: see :class:`AdaptiveLimit` for how.

    :ivar minimum: it is never lower, at least 1. 4: with fewer there would hardly be a latency to learn from.
    :ivar maximum: it is never higher.
    :ivar initial: where it begins. 20: low enough for most servers, and four times that within some six windows.
    :ivar tolerance: how many times the latency without a queue is accepted, more than 1. 1.2: near 1, noise looks like
        a queue; far above, the queue stands in the server, where nobody can put the urgent ones first.
    :ivar smoothing: the share of the way to its target that the limit goes in one window, above 0 and up to 1.
    :ivar window: seconds at least between two changes; twice the latency, where that is more.
    :ivar samples: calls at least between two changes. 10: enough to see a latency that has doubled.
    :ivar look_every: seconds after which half the limit is tried for a moment, to measure the latency without a queue,
        where the load has not shown it since.
    """

    minimum: int = 4
    maximum: int = 1000
    initial: int = 20
    tolerance: float = 1.2
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

    **Each window**, with the mean latency ``mean`` (each call counts for at most 8 baselines)::

        wanted   = baseline * (tolerance + 0.5 / sqrt(limit))
        gradient = wanted / mean
        target   = limit * max(0.5, gradient)            gradient < 1: a queue
                   limit * min(1.2, gradient)            no queue, and the limit was reached
                   limit * min(2, gradient ** n)         for the n-th time in a row, n > 3, and at the start
        limit   += smoothing * (target - limit)

    *How long a window is* depends on how clear it is: it ends as soon as ``mean`` is 1.5 standard errors away from
    ``wanted``, or 100 calls make it exact. (More where the times vary more: ``spread``, their variance by the square
    of their mean, is measured; 1 is that of exponential times.) So a server that drowns is seen within ten calls, and
    near the knee, where one window says little, nothing is done on the strength of ten.

    *After a step of more than a tenth* no call counts for ``mean * (1 + spread)`` seconds, twice what is left of a
    call in progress in the mean. The calls that end first after the limit has risen are the short ones, and after it
    has fallen the long ones of before: whoever counts them sees a queue because he has cut, and cuts again.

    Calls that the server refused (dropped within two baselines), beyond a tenth, count for three baselines each. A call
    that timed out is one that took that long: what it shared a deadline with is not the server's fault.

    **The baseline** is the mean latency of the last 300 calls or so that had no more than half the limit in flight,
    all of them whatever they took: to leave out the slow ones would be to find it too low. Where such calls have
    been rare for ``look_every`` seconds, a *look* is taken: half the limit, for five latencies and 80 calls, after
    those that were there before have gone and twice the time above is over. It is averaged with the baseline by the
    number of calls, or takes its place where the difference is more than noise. Whoever halves and keeps at least 90%
    of the throughput was beyond the knee by half: the limit stays there, and the next look comes at once. A look is
    also taken at the first sign of a queue, when no call has yet been seen without one, and when the limit has fallen
    by half: if it was the server that got slower, fewer calls have not made it faster, the look finds the new
    baseline, and the limit comes back. Nothing else raises it: a baseline that follows the latency while there is a
    queue takes the queue for normal.

    Sources: TCP Vegas (Brakmo, Peterson 1995) for the idea; the gradient, and room by the square root of the limit, of
    Netflix' concurrency-limits (2018); the periodic minimum of Envoy's adaptive concurrency filter; halving to see the
    path without a queue is BBR's ProbeRTT; the window that ends when it is clear is Wald's sequential test (1945). The
    mean in place of a low percentile, since it is the mean that Little's law is about, and since with latencies of two
    kinds a percentile jumps between them.
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
        "_look_free_at",
        "_looking",
        "_low",
        "_low_sum",
        "_needed",
        "_peak",
        "_refused",
        "_residual",
        "_seen",
        "_settles_at",
        "_spread",
        "_squares",
        "_streak",
        "_sum",
        "_weight",
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
        self._highest = self._exact  # the largest since the last look
        self._streak = STREAK  # windows in a row without a queue
        self._spread = 1.0  # the variance of the latencies by the square of their mean
        self._weight = 0  # calls that the baseline is the mean of
        self._seen = False  # whether it is known at no more than half the limit
        self._looking = False
        self._look_at = self._look_free_at = 0.0  # when the next is due, and when one may be taken
        self._look_began = 0.0
        self._before = 0.0  # calls per second when the look began
        self._began = 0.0  # when the window did
        self._settles_at = -1.0  # calls that end earlier do not count; -1: before the first
        self._residual = 0.0  # seconds until those who are in flight have ended, nearly all
        self._ends_at = 0.0
        self._needed = LOOK_SAMPLES
        self._sum = self._squares = self._low_sum = 0.0
        self._count = self._low = self._dropped = self._refused = self._peak = 0

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
            if self._looking and in_flight > self.limit + 1 and now < self._look_began + PATIENCE * self._residual:
                self._settle_look(now)  # those there were before it
            return
        if self._settles_at < 0:  # the first calls to end are the short ones
            self._began = self._settles_at = now + self.rules.window
            return
        clip = CLIP * self.baseline
        if seconds > clip > 0:
            seconds = clip
        self._count += 1
        if dropped:
            self._dropped += 1
        if dropped and seconds < CUT_SHORT * self.baseline:
            self._refused += 1
            seconds = 0.0
        elif 2 * in_flight <= self.limit:
            self._low_sum += seconds
            self._low += 1
        self._sum += seconds
        self._squares += seconds * seconds
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
        rules, count, baseline, before = self.rules, self._count, self.baseline, self._exact
        took = count - self._refused
        mean = self._sum / took if took else baseline
        if mean <= 0:
            mean = 1e-9  # a clock too coarse for the calls; all that counts is a ratio
        throughput = count / max(now - self._began, 1e-9)
        settle = self._looking
        if self._looking:
            self._varied(mean, took)
            self._look_ended(mean, throughput, now)
        elif not baseline:
            if 2 * self._dropped < count:
                self.baseline, self._weight = mean, 1  # a guess: any look counts for more
                self._varied(mean, took)
                self._look_at = now + rules.look_every
            else:  # it is no latency, only a patience
                self._set(self._exact / 2)
        else:
            felt = mean + REFUSED * baseline * max(0.0, self._refused / count - DROPS)
            wanted = baseline * (rules.tolerance + HEADROOM / sqrt(self._exact))
            enough = ENOUGH * max(self._spread, 1.0)
            if count < enough and abs(felt - wanted) < CERTAIN * wanted * sqrt(self._spread / count):
                self._needed = count + rules.samples
                return
            self._varied(mean, took)
            self._adjust(mean, wanted / felt, throughput, now)
        self.latency = mean
        self._sum = self._squares = self._low_sum = 0.0
        self._count = self._low = self._dropped = self._refused = self._peak = 0
        if not self._looking:
            self._needed = rules.samples
            self._began = now
            self._residual = mean * (1 + self._spread)
            if settle or abs(self._exact / before - 1) > SMALL:
                self._began = self._settles_at = now + self._residual
            self._ends_at = self._began + max(rules.window, 2 * mean)

    def _adjust(self, mean: float, gradient: float, throughput: float, now: float) -> None:
        rules, limit, count = self.rules, self._exact, self._count
        used = 2 * self._peak > self.limit
        full = self._peak >= self.limit
        answered = 2 * self._dropped < count
        if mean < self.baseline * (1 - FASTER * sqrt(self._spread / count)):
            self._learn(mean, count, LESS)
        elif self.limit == rules.minimum and answered:  # there is no lower one to look at
            self._learn(mean, count, MEMORY)
        elif self._low and answered:
            self._learn(self._low_sum / self._low, self._low, MEMORY)
            if 4 * self._low >= count:
                self._look_at = now + rules.look_every
                self._seen = True
        target = limit
        if gradient < 1:
            self._streak = 0
            if used or self._refused:
                target = (min(limit, self._peak) if used else limit) * max(LARGEST_CUT, gradient)
        elif full:
            self._streak += 1
            if self._streak > STREAK:
                target = limit * min(GROWTH, gradient**self._streak)
            else:
                target = limit * min(CAREFUL, gradient)
        self._set(limit + rules.smoothing * (target - limit))
        self._highest = max(self._highest, self._exact)
        fallen = self._exact < FALLEN * self._highest and now >= self._look_free_at
        if used and (fallen or (gradient < 1 and not self._seen) or now >= self._look_at):
            self._look(mean, throughput if full else inf, now)  # not full: half may be all that is asked for

    def _varied(self, mean: float, took: int) -> None:
        if took > 1:
            spread = max(self._squares / took / (mean * mean) - 1.0, 0.0)
            self._spread += (spread - self._spread) * took / (took + MEMORY)

    def _learn(self, mean: float, count: int, memory: int) -> None:
        weight = min(self._weight, memory)
        self.baseline += (mean - self.baseline) * count / (weight + count)
        self._weight = weight + count

    def _look(self, mean: float, throughput: float, now: float) -> None:
        self.looks += 1
        self._looking = True
        self._look_began = now
        self._before = throughput
        self.limit = max(self.rules.minimum, int(self._exact / 2))
        self._needed = max(LOOK_LATENCIES * self.limit, int(LOOK_SAMPLES * max(self._spread, 1.0)))
        self._residual = 2 * mean * (1 + self._spread)  # none was let in while they went: the long ones of now are rare
        self._settle_look(now)
        self._ends_at = self._settles_at + max(self.rules.window / 2, mean)

    def _settle_look(self, now: float) -> None:
        self._began = self._settles_at = now + self._residual

    def _look_ended(self, mean: float, throughput: float, now: float) -> None:
        rules, in_flight, count = self.rules, throughput * mean, self._count
        self._looking = False
        self._seen = True
        took = now - self._look_began
        self._look_at = now + max(rules.look_every, LOOK_SHARE * took)
        self._look_free_at = now + LOOK_SHARE / 4 * took
        if 2 * self._dropped < count:
            noise = mean * sqrt(self._spread / count + self._spread / min(self._weight, MEMORY))
            if abs(mean - self.baseline) < DIFFERENT * noise:
                self._learn(mean, count, MEMORY)
            else:
                self.baseline, self._weight = mean, count
        if in_flight >= FULL * self.limit and throughput >= KEPT * self._before and self.limit < int(self._exact):
            self._exact = float(self.limit)
            self._look_at = now
        self._set(self._exact)
        self._highest = self._exact

    def _set(self, exact: float) -> None:
        self._exact = min(max(exact, float(self.rules.minimum)), float(self.rules.maximum))
        self.limit = round(self._exact)
