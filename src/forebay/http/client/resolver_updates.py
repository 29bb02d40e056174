"""Following a resolver: what it says is handed on, and when it fails it is asked again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import structlog

from forebay.engine.loop import now, sleep
from forebay.http.client.resolver import ResolvedTarget, Resolver, checked
from forebay.policy.backoff import Backoff

__all__ = ["ResolverUpdates"]

log = structlog.get_logger("forebay.client")

_SOURCE = random.Random()  # noqa: S311 - clients are spread with it, nothing is secret
_BACKOFF = Backoff(initial=0.5, cap=30.0, jitter="equal")  # a registry that is down has many who ask for it
_PAUSE = 0.01  # seconds between sets: one that says them without end is not to have the loop for itself
_SAY_AGAIN = 60.0  # seconds: a resolver that goes on failing is not news


class ResolverUpdates:
    """Follows a resolver until it is cancelled: hands on every set of servers that it says, and bears with it.

    A resolver that fails, or says a set that cannot be, changes nothing: the last good set is the best that is known.
    It is asked again, later each time. Of failures in a row the first is logged, and then one a minute.

    :param apply: is given each set.
    """

    __slots__ = ("_apply", "_backoff", "_failures", "_said_at", "_source", "resolver", "sets", "why")

    def __init__(
        self,
        resolver: Resolver,
        apply: Callable[[tuple[ResolvedTarget, ...]], object],
        *,
        backoff: Backoff = _BACKOFF,
        source: random.Random = _SOURCE,
    ) -> None:
        self.resolver = resolver
        self.sets = 0  # that were good
        self.why = ""  # what is wrong; empty while nothing is
        self._apply = apply
        self._backoff = backoff
        self._source = source
        self._failures = 0  # in a row
        self._said_at = -_SAY_AGAIN

    async def run(self) -> None:
        """Follow. Returns when the resolver has ended, since nothing changes any more then; one that has not said a set
        by then has failed."""
        delay = 0.0
        while True:
            try:
                await self._follow()
                if self.sets:
                    return
                self._failed("it ended and has said no targets")
            except Exception as error:  # a resolver is somebody else's code: whatever it raises, requests go on
                self._failed(f"{type(error).__name__}: {error!s:.500}")
            delay = self._backoff.draw(self._failures - 1, delay, self._source)
            await sleep(delay)

    async def _follow(self) -> None:
        watch = self.resolver.watch()
        try:
            async for found in watch:
                self._apply(checked(found))
                self._works()
                await sleep(_PAUSE)
        finally:
            if (close := getattr(watch, "aclose", None)) is not None:  # of a generator; others need not have it
                await close()

    def _works(self) -> None:
        self.sets += 1
        if self._failures:
            log.info("resolver works again", url=self.resolver.url, failures=self._failures)
        self._failures, self.why = 0, ""

    def _failed(self, why: str) -> None:
        self._failures += 1
        self.why = why
        at = now()
        if self._failures == 1 or at - self._said_at >= _SAY_AGAIN:
            self._said_at = at
            log.warning("resolver failed", url=self.resolver.url, failures=self._failures, why=self.why)

    def statistics(self) -> dict[str, Any]:
        """``sets`` that were taken; ``failures`` in a row, and ``why``."""
        return {"url": self.resolver.url, "sets": self.sets, "failures": self._failures, "why": self.why}
