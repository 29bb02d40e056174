"""An upstream: a group of targets, of which :mod:`forebay.policy.targets` chooses, with what the gateway has of each.

Primaries that are up are used; where none is, backups that are up; where there is none either, all primaries, as if
nothing were known: a list on which everybody is down says more about the list than about the targets, and a request
that is tried may succeed while one that is refused cannot.
"""

from __future__ import annotations

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
from forebay.policy.hashing import Hashing
from forebay.policy.health import ActiveHealth, PassiveHealth, Standing
from forebay.policy.target import Target as GroupTarget
from forebay.policy.target_rules import TargetRules
from forebay.policy.targets import Targets

if TYPE_CHECKING:
    from forebay.gateway.connection import UpstreamConnection

__all__ = ["Target", "Upstream", "reason_of"]

log = structlog.get_logger("forebay.gateway")

_UP = Standing.UP  # looked up for every request

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


class Target(GroupTarget):
    """One server of an upstream: where it is, and its connections.

    At most as many connections are open as the gateway has clients with a request in flight, and ``keepalive`` idle
    ones.
    """

    __slots__ = ("address", "connections", "host", "idle", "keepalive", "keepalive_timeout", "retired")

    def __init__(self, config: schema.Target, upstream: schema.Upstream) -> None:
        self.address: Address = parse_address(config.url, schemes=("http",))
        super().__init__(
            str(self.address),
            config.weight,
            backup=config.backup,
            passive=PassiveHealth(config.max_fails, config.fail_timeout),
            active=ActiveHealth(upstream.health.rise, upstream.health.fall) if upstream.health else None,
        )
        self.host = self.name.removeprefix("http://").encode()
        self.keepalive = upstream.keepalive
        self.keepalive_timeout = upstream.keepalive_timeout
        self.idle: list[UpstreamConnection] = []  # the one used last is last, and used next
        self.connections = 0  # open ones, idle or not
        self.retired = False  # no longer configured: connections are closed instead of kept

    def __repr__(self) -> str:
        return f"<Target {self.name} in_flight={self.in_flight} idle={len(self.idle)} {self.state}>"

    def retire(self) -> None:
        """It is no longer used: close what is idle now, and the rest when it becomes idle."""
        self.retired = True
        for connection in tuple(self.idle):
            connection.close()
        self.idle.clear()


class Upstream(Targets[Target]):
    """The targets of one name: a group that says in the log who is taken out, and who is back.

    :ivar hash_key: what of a request its key is made of, as configured; empty: the balancer asks for no key.
    """

    __slots__ = ("connect_timeout", "hash_key", "health", "retries", "seconds")

    def __init__(self, name: str, config: schema.Upstream) -> None:
        super().__init__(
            TargetRules(config.balance, panic_threshold=0.0, slow_start=None),
            [Target(target, config) for target in config.targets],
            name=name,
        )
        self.connect_timeout = config.connect_timeout
        self.hash_key = config.hash_key if isinstance(self.balancer, Hashing) else ""
        self.health = config.health
        self.seconds = Histogram()  # from sending a request to the head of its answer
        self.retries = 0

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {list(self.targets)}>"

    @property
    def targets(self) -> tuple[Target, ...]:
        """All of them, in the order of the file."""
        return self.members

    def answered(self, target: Target, seconds: float, now: float, failed: bool = False) -> bool:
        """``target`` answered ``seconds`` after it was asked. True when that brought it back."""
        self.seconds.observe(seconds)
        if target.passive.standing is _UP and self.outliers is None and not failed:
            if self._wants_latency:
                target.observe(seconds, now)
            return False  # nothing else follows: the usual case, without one more call
        back = super().answered(target, seconds, now, failed)
        if back:
            log.info("target is back", upstream=self.name, target=target.name, why=target.cause)
        return back

    def broke(self, target: Target, error: UpstreamError, now: float) -> None:
        """``target`` failed a request with ``error``."""
        reason = reason_of(error)
        if self.failed(target, reason, now):
            log.warning(
                "target taken out",
                upstream=self.name,
                target=target.name,
                why=target.passive.why(),
                reason=reason,
                error=str(error),
                seconds=target.passive.fail_timeout,
                left=sum(other.active.up and other.passive.allows(now) for other in self.targets),
            )

    def checked(self, target: Target, why: str, now: float) -> bool:
        """An active check found ``target`` well (``why`` is empty) or not. True when that changed how it stands."""
        changed = super().checked(target, why, now)
        if not changed:
            return False
        if why:
            log.warning("target taken out", upstream=self.name, target=target.name, why=target.active.why(), error=why)
        else:
            log.info("target is back", upstream=self.name, target=target.name, why=target.cause)
        return True

    def adopt(self, old: Targets[Target], now: float) -> None:
        """Go on where the upstream of this name in the configuration before has been."""
        if self.health is None:
            for target in self.targets:
                target.active.enabled = False  # nobody checks it, so what checks said before counts no more
        super().adopt(old, now)
        if isinstance(old, Upstream):
            self.seconds, self.retries = old.seconds, old.retries

    def retire(self) -> None:
        """It is no longer used."""
        for target in self.targets:
            target.retire()
