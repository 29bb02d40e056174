"""An upstream: its targets, which of them may be used, and which one is next.

Primaries that are up are used; where none is, backups that are up; where there is none either, all primaries, as if
nothing were known: a list on which everybody is down says more about the list than about the targets, and a request
that is tried may succeed while one that is refused cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from forebay.config import schema
from forebay.engine import Address, parse_address
from forebay.errors import (
    ConnectFailed,
    ConnectTimeout,
    NoTarget,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from forebay.observe.metrics import Histogram
from forebay.policy.balance import Member, make_balancer
from forebay.policy.health import ActiveHealth, PassiveHealth, Standing

if TYPE_CHECKING:
    from forebay.gateway.connection import UpstreamConnection

__all__ = ["Target", "Upstream", "reason_of"]

log = structlog.get_logger("forebay.gateway")

_FOREVER = float("inf")

UP = Standing.UP  # looked up for every request

_REASONS: dict[type[UpstreamError], str] = {
    NoTarget: "no-target",
    ConnectTimeout: "connect-timeout",
    ConnectFailed: "connect-failed",
    UpstreamClosed: "closed",
    UpstreamTimeout: "timeout",
    UpstreamProtocolError: "protocol-error",
}


def reason_of(error: UpstreamError) -> str:
    """The name a failure has in metrics, in logs and towards clients."""
    return _REASONS.get(type(error), "failed")


class Target(Member):
    """One server of an upstream: where it is, how it stands, its connections, and what is counted of it.

    At most as many connections are open as the gateway has clients with a request in flight, and ``keepalive`` idle
    ones.
    """

    __slots__ = (
        "active",
        "address",
        "backup",
        "connections",
        "ejections",
        "failures",
        "host",
        "idle",
        "keepalive",
        "keepalive_timeout",
        "passive",
        "requests",
        "retired",
    )

    def __init__(self, config: schema.Target, upstream: schema.Upstream) -> None:
        self.address: Address = parse_address(config.url, schemes=("http",))
        super().__init__(str(self.address), config.weight)
        self.host = self.name.removeprefix("http://").encode()
        self.backup = config.backup
        self.passive = PassiveHealth(config.max_fails, config.fail_timeout)
        self.active = ActiveHealth(upstream.health.rise, upstream.health.fall) if upstream.health else ActiveHealth()
        self.keepalive = upstream.keepalive
        self.keepalive_timeout = upstream.keepalive_timeout
        self.idle: list[UpstreamConnection] = []  # the one used last is last, and used next
        self.connections = 0  # open ones, idle or not
        self.retired = False  # no longer configured: connections are closed instead of kept
        self.requests = 0  # tries, whatever came of them
        self.failures: dict[str, int] = {}  # by reason
        self.ejections = 0

    def __repr__(self) -> str:
        return f"<Target {self.name} in_flight={self.in_flight} idle={len(self.idle)} {self.state}>"

    @property
    def state(self) -> str:
        """``up``, ``down`` or ``probing``."""
        return self.passive.standing.value if self.active.up else "down"

    def usable(self, now: float) -> bool:
        """Whether a request may go there."""
        return self.active.up and self.passive.allows(now)

    def adopt(self, old: Target) -> None:
        """Go on where ``old``, the same server in the configuration before, has been: health, latency, counts."""
        passive = self.passive
        passive.standing, passive.fails = old.passive.standing, old.passive.fails
        passive.since, passive.until = old.passive.since, old.passive.until
        passive.undecided()  # the probe of the old one reports to the old one
        if not passive.max_fails:
            passive.reset()
        self.active.up = old.active.up
        self.latency, self.latency_at, self.credit = old.latency, old.latency_at, old.credit
        self.requests, self.failures, self.ejections = old.requests, old.failures, old.ejections

    def retire(self) -> None:
        """It is no longer used: close what is idle now, and the rest when it becomes idle."""
        self.retired = True
        for connection in tuple(self.idle):
            connection.close()
        self.idle.clear()


class Upstream:
    """The targets of one name, and the choice among them."""

    __slots__ = (
        "_available",
        "_balancer",
        "_recheck_at",
        "_reserve",
        "_wants_latency",
        "connect_timeout",
        "health",
        "name",
        "retries",
        "seconds",
        "targets",
    )

    def __init__(self, name: str, config: schema.Upstream) -> None:
        self.name = name
        self.connect_timeout = config.connect_timeout
        self.health = config.health
        self.targets = tuple(Target(target, config) for target in config.targets)
        self.seconds = Histogram()  # from sending a request to the head of its answer
        self.retries = 0
        self._balancer = make_balancer(config.balance)
        self._wants_latency = self._balancer.wants_latency
        self._available: Sequence[Target] = ()
        self._reserve: Sequence[Target] = ()  # for a retry, when all available ones were tried
        self._recheck_at = 0.0

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {list(self.targets)}>"

    def pick(self, now: float, tried: Sequence[Target] = ()) -> Target:
        """The target for the next try, counted as in flight there until :meth:`leave`.

        :param tried: those that failed this request already.
        :raises NoTarget: nobody else is left.
        """
        if now >= self._recheck_at:
            self._refresh(now)
        candidates = self._available
        if tried:
            candidates = [target for target in candidates if target not in tried] or [
                target for target in self._reserve if target not in tried
            ]
            if not candidates:
                raise NoTarget(f"every target of {self.name} that is up was tried")
        target = candidates[0] if len(candidates) == 1 else self._balancer.pick(candidates, now)
        target.in_flight += 1
        target.requests += 1
        if target.passive.standing is not UP and target.passive.begin(now):
            self._refresh(now)  # one probe at a time: the others go elsewhere
        return target

    def answered(self, target: Target, seconds: float, now: float) -> None:
        """``target`` answered ``seconds`` after it was asked."""
        self.seconds.observe(seconds)
        if self._wants_latency:
            target.observe(seconds, now)
        if target.passive.standing is not UP and target.passive.success():
            self._refresh(now)
            log.info("target is back", upstream=self.name, target=target.name, why="a request was answered")

    def failed(self, target: Target, error: UpstreamError, now: float) -> None:
        """``target`` failed a request."""
        reason = reason_of(error)
        target.failures[reason] = target.failures.get(reason, 0) + 1
        passive = target.passive
        if passive.failure(now):
            target.ejections += 1
            self._refresh(now)
            log.warning(
                "target taken out",
                upstream=self.name,
                target=target.name,
                why=f"{passive.fails} failures within {passive.fail_timeout:g} s",
                reason=reason,
                error=str(error),
                seconds=passive.fail_timeout,
                left=sum(other.usable(now) for other in self.targets),
            )

    def leave(self, target: Target) -> None:
        """A try at ``target`` is over; one that came to no verdict lets the next one probe."""
        target.in_flight -= 1
        if target.passive.standing is not UP and target.passive.standing is Standing.PROBING:
            target.passive.undecided()
            self._recheck_at = 0.0

    def checked(self, target: Target, why: str, now: float) -> None:
        """An active check found ``target`` well (``why`` is empty) or not."""
        if not target.active.result(not why):
            return
        if why:
            target.ejections += 1
            log.warning(
                "target taken out", upstream=self.name, target=target.name, why="health checks failed", error=why
            )
        else:
            log.info("target is back", upstream=self.name, target=target.name, why="health checks succeeded")
        self._refresh(now)

    def adopt(self, old: Upstream) -> None:
        """Go on where the upstream of this name in the configuration before has been."""
        self.seconds, self.retries = old.seconds, old.retries
        before = {target.name: target for target in old.targets}
        for target in self.targets:
            if target.name in before:
                target.adopt(before[target.name])

    def retire(self) -> None:
        """It is no longer used."""
        for target in self.targets:
            target.retire()

    def _refresh(self, now: float) -> None:
        """Find out anew who may be used, and when that may next change by itself."""
        usable = [target for target in self.targets if target.usable(now)]
        primaries = [target for target in usable if not target.backup]
        backups = [target for target in usable if target.backup]
        self._available = primaries or backups or [t for t in self.targets if not t.backup] or self.targets
        self._reserve = backups
        waiting = (
            t.passive.until for t in self.targets if t.passive.standing is Standing.DOWN and t.passive.until > now
        )
        self._recheck_at = min(waiting, default=_FOREVER)
