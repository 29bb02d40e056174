"""How large a pool is, how long its resources live, and how long one waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["PoolSettings"]

_SECONDS = (
    "idle_timeout",
    "max_lifetime",
    "check_after",
    "check_interval",
    "check_timeout",
    "dial_timeout",
    "close_timeout",
    "wait_timeout",
    "held_warning",
    "reclaim_after",
)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The limits of one pool. All times are seconds above 0; ``None`` switches off what the parameter is about.

    Resources that are being dialled or checked count like those in use; one that is being closed counts no more.

    :param max_total: resources of all keys together, at least 1. 100: a service that needs more at once is mostly one
        whose callee is slow, and more connections make that worse.
    :param max_per_key: of one key, at least 1. 50: one key that hangs leaves half of the places to the others.
    :param max_idle: idle ones of all keys together, at least 0. 100: what the last minute needed is kept.
    :param idle_timeout: an idle one is closed after that. 60: less than what servers, balancers and NAT keep (75 s at
        nginx, 350 s at AWS), so that we close it, and not they, just when it is used.
    :param max_lifetime: one that is older is closed when it is idle or comes back. None: for ever; set it where the
        addresses behind a name change, or credentials expire.
    :param lifetime_jitter: the share of ``max_lifetime``, 0 to 1, by which each life is at most shorter, drawn evenly.
        0.1: those that were dialled together do not end together.
    :param prewarm: resources of each kept key that are dialled when the pool starts, at least 0.
    :param min_idle: idle ones of each kept key that are always there, at least 0; the idle timeout leaves them alone.
        They are made as long as there is room, and are closed for a waiter of another key like all others.
    :param check_after: one that was idle for longer is checked before it is borrowed. 30: what the peer has closed
        is mostly seen at once; a check is for what is gone without a word.
    :param check_interval: idle ones are checked in the background when neither a use nor a check was since.
    :param check_timeout: a check that takes longer has failed.
    :param dial_timeout: a dial that takes longer has failed. 30: a dial should know better, but none holds its
        place for ever.
    :param close_timeout: a close that takes longer is cancelled.
    :param max_waiting: who may wait, at least 0, beside those for whom something is dialled or checked. 1,000: ten for
        each place; who stands behind those is better refused at once.
    :param wait_timeout: who waits for longer is refused. 10: twice ``held_warning``, so that the log has named a leak
        before the first is refused.
    :param held_warning: a resource that is held for longer is told in the log.
    :param reclaim_after: a resource that is held for longer is closed under its holder. None: never.
    :raises ValueError: a parameter is out of range.
    """

    max_total: int = 100
    max_per_key: int = 50
    max_idle: int = 100
    idle_timeout: float | None = 60.0
    max_lifetime: float | None = None
    lifetime_jitter: float = 0.1
    prewarm: int = 0
    min_idle: int = 0
    check_after: float | None = 30.0
    check_interval: float | None = None
    check_timeout: float = 5.0
    dial_timeout: float = 30.0
    close_timeout: float = 5.0
    max_waiting: int = 1000
    wait_timeout: float | None = 10.0
    held_warning: float | None = 5.0
    reclaim_after: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_total", "max_per_key"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("max_idle", "prewarm", "min_idle", "max_waiting"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 0")
        for name in _SECONDS:
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} {seconds}: must be more than 0 seconds, or None where there is to be none")
        for name in ("check_timeout", "dial_timeout", "close_timeout"):
            if getattr(self, name) is None or getattr(self, name) == inf:
                raise ValueError(f"{name} {getattr(self, name)}: must be a number of seconds")
        if not 0 <= self.lifetime_jitter <= 1:
            raise ValueError(f"lifetime_jitter {self.lifetime_jitter}: must be 0 to 1")
        if self.min_idle > self.max_idle:
            raise ValueError(f"min_idle {self.min_idle}: must be at most max_idle, which is {self.max_idle}")
        if self.reclaim_after is not None and self.held_warning is not None and self.reclaim_after < self.held_warning:
            raise ValueError(
                f"reclaim_after {self.reclaim_after}: must be at least held_warning, which is {self.held_warning}"
            )

    @property
    def horizon(self) -> float:
        """Seconds within which nothing falls due that is not known yet; ``inf``: never."""
        times = [self.idle_timeout, self.check_interval, self.held_warning, self.reclaim_after]
        if self.max_lifetime is not None:
            times.append(self.max_lifetime * (1.0 - self.lifetime_jitter))
        if self.min_idle:
            times.append(1.0)  # what was borrowed is made anew within that
        return min((one for one in times if one is not None), default=inf)
