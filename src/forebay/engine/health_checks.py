"""Asking targets, again and again, whether they are well. What follows from the answers is decided in ``policy``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from forebay.engine.address import Address
from forebay.engine.dial import dial
from forebay.engine.handler import ConnectionHandler
from forebay.engine.loop import Cancelled, now
from forebay.engine.tasks import Task, Tasks, place_of_task, start_task, unfinished
from forebay.errors import ForebayError

__all__ = ["CheckTiming", "HealthChecks", "Unwell", "tcp_check"]

log = structlog.get_logger("forebay.engine")

T = TypeVar("T", bound=Hashable)

_GRACE = 0.1  # seconds a check has to end after it was cancelled for taking too long, before it is left behind
_LAST_WAIT = 1.0  # seconds, the same, when all are cancelled


class Unwell(Exception):
    """Raised by a check: the target is not well. Its text is the reason, as people will read it."""


@dataclass(frozen=True, slots=True)
class CheckTiming:
    """When checks run.

    :param interval: seconds from the beginning of one check of a target to that of its next one. The default, 5, finds
        an outage within 15 s where three bad results are asked for, and costs next to nothing.
    :param timeout: seconds a check may take. The default, 1, is long for "I am well".
    :param jitter: by up to this part each interval is shorter or longer, at random, so that the checks of many targets
        and of many processes do not come all at once; from 0 to below 1.
    :param unhealthy_interval: the interval after a bad result; ``None``: the same. A shorter one brings targets back
        sooner, a longer one spares those that struggle.
    :param at_once: checks that run at the same time, at most; the others wait for their turn.
    """

    interval: float = 5.0
    timeout: float = 1.0
    jitter: float = 0.1
    unhealthy_interval: float | None = None
    at_once: int = 64

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise ValueError(f"interval {self.interval}: must be above 0")
        if not self.timeout > 0:
            raise ValueError(f"timeout {self.timeout}: must be above 0")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter {self.jitter}: must be at least 0 and below 1")
        if self.unhealthy_interval is not None and not self.unhealthy_interval > 0:
            raise ValueError(f"unhealthy_interval {self.unhealthy_interval}: must be above 0")
        if self.at_once < 1:
            raise ValueError(f"at_once {self.at_once}: must be at least 1")


_TIMING = CheckTiming()


class HealthChecks(Generic[T]):
    """Checks each of its targets until it is cancelled.

    ::

        checks = HealthChecks(tcp_check, report=lambda target, why, now: health[target].result(not why, why))
        checks.start(["tcp://10.0.0.1:7000", "tcp://10.0.0.2:7000"])
        ...
        await checks.cancel()

    A target is checked at once, then after a random part of the interval (so that those which began together drift
    apart), then every interval. Whatever a check raises is a bad result with a reason; so is one that takes too long.
    One that does not even end when it is cancelled is left behind, and its target has bad results until it has ended:
    as long as it is watched there is never more than one check of it.

    :param check: asks one target; returns when it is well, raises when not: :class:`Unwell`, or anything.
    :param report: told each result: the target, why it is not well (empty when it is), and the time. It must not
        block; what it raises is logged.
    :param timing: when.
    :param enabled: whether checks are made; when not, nothing is asked or reported.
    :param source: of randomness; given by tests.
    """

    __slots__ = (
        "_asking",
        "_check",
        "_counts",
        "_places",
        "_report",
        "_source",
        "_tasks",
        "_watches",
        "enabled",
        "timing",
    )

    def __init__(
        self,
        check: Callable[[T], Awaitable[None]],
        report: Callable[[T, str, float], object],
        timing: CheckTiming = _TIMING,
        *,
        enabled: bool = True,
        source: random.Random | None = None,
    ) -> None:
        self.timing = timing
        self.enabled = enabled
        self._check = check
        self._report = report
        self._source = source or random.Random()  # noqa: S311 - checks are spread with it, nothing is secret
        self._places = asyncio.Semaphore(timing.at_once)
        self._tasks = Tasks()
        self._watches: dict[T, Task[None]] = {}
        self._asking: set[Task[str]] = set()  # checks under way, those left behind among them
        self._counts = {"checks": 0, "good": 0, "bad": 0, "timed_out": 0, "stuck": 0}

    def __repr__(self) -> str:
        return f"<HealthChecks targets={len(self._watches)} running={len(self._asking)}>"

    def start(self, targets: Iterable[T]) -> None:
        """Check ``targets`` from now on, for the first time at once. The same as :meth:`update`."""
        self.update(targets)

    def update(self, targets: Iterable[T]) -> None:
        """Check exactly these from now on: new ones at once; those that stay keep their turn; of those that are gone
        nothing more is reported, from this moment on."""
        wanted = dict.fromkeys(targets)
        for target in [target for target in self._watches if target not in wanted]:
            self._watches.pop(target).cancel()
        if not self._tasks:
            self._places = asyncio.Semaphore(self.timing.at_once)  # the one there was may be of a loop that has ended
        for target in wanted:
            watch = self._watches.get(target)
            if watch is None or watch.done():  # the latter when its loop has ended
                self._watches[target] = self._tasks.spawn(self._watch(target), name=f"health of {_named(target)}")

    async def cancel(self) -> None:
        """Check no more; return when nothing is under way. It may be started again.

        A check that does not end within a second of being cancelled is logged, and left behind.
        """
        self._watches.clear()
        await self._tasks.cancel()
        for task in await unfinished(self._asking, _LAST_WAIT):
            log.error("health check does not end", task=task.get_name(), place=place_of_task(task))

    def statistics(self) -> dict[str, Any]:
        """Targets, checks ``running`` now (with those left behind), and counts: ``checks`` begun, ``good`` and
        ``bad`` results; of the bad those that ``timed_out``, and those of targets whose last check was ``stuck``."""
        return {"enabled": self.enabled, "targets": len(self._watches), "running": len(self._asking), **self._counts}

    async def _watch(self, target: T) -> None:
        await asyncio.sleep(0)  # what is started has returned before anything is asked, also where tasks start eagerly
        timing, source = self.timing, self._source
        asking: Task[str] | None = None
        spread = True
        while True:
            began = now()
            interval = timing.interval
            if self.enabled:
                if asking is not None and not asking.done():
                    self._counts["stuck"] += 1
                    why = "the check before this one has not ended"
                else:
                    asking, why = await self._ask(target)
                if why and timing.unhealthy_interval is not None:
                    interval = timing.unhealthy_interval
                if self.enabled:  # it may have been switched off meanwhile
                    self._tell(target, why)
            if spread:
                interval *= source.random()
                spread = False
            else:
                interval *= 1 + timing.jitter * (2 * source.random() - 1)
            await asyncio.sleep(max(0.0, began + interval - now()))

    async def _ask(self, target: T) -> tuple[Task[str], str]:
        """Make one check, in a task of its own, which can be left behind. That task, and why the target is not well."""
        async with self._places:
            self._counts["checks"] += 1
            asking = start_task(self._outcome(target), f"health check of {_named(target)}")
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            seconds = self.timing.timeout
            try:
                if await unfinished((asking,), seconds):
                    self._counts["timed_out"] += 1
                    asking.cancel()
                    await unfinished((asking,), _GRACE)
                    return asking, f"no answer within {seconds:g} s"
            finally:
                asking.cancel()
            return asking, "the check was cancelled" if asking.cancelled() else asking.result()

    async def _outcome(self, target: T) -> str:
        try:
            await self._check(target)
        except (Cancelled, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a check is somebody else's code: whatever it raises is a result
            try:
                said = str(error)
            except Exception:  # and so is how it says it
                said = ""
            if isinstance(error, (Unwell, ForebayError)) and said:
                return said
            return f"{type(error).__name__}: {said}" if said else type(error).__name__
        return ""

    def _tell(self, target: T, why: str) -> None:
        self._counts["bad" if why else "good"] += 1
        try:
            self._report(target, why, now())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # somebody else's code: the target is to be checked again all the same
            log.exception("health check could not be reported", target=_named(target), why=why)


def _named(target: object) -> str:
    return str(getattr(target, "name", target))


async def tcp_check(address: Address | str, *, timeout: float = 3.0) -> None:
    """Well is who takes a connection (and completes the handshake, on ``tls://``). Nothing is sent on it.

    :param timeout: seconds for connecting, where the driver's own are not fewer.
    :raises ConnectFailed: nobody took it, or not in time.
    """
    conn = await dial(address, ConnectionHandler(), timeout=timeout)
    conn.close()
