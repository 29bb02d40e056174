"""How a group of targets is chosen from."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.policy.balance import make_balancer
from forebay.policy.slow_start import SlowStart

__all__ = ["TargetRules"]


@dataclass(frozen=True, slots=True)
class TargetRules:
    """How a group is chosen from.

    :param balance: one of :data:`~forebay.policy.balance.BALANCERS`. ``weighted-round-robin``: even, and nothing to
        tune.
    :param zone: where the caller is: targets of that zone are preferred. Empty: zones do not matter.
    :param zone_headroom: how much more than its part the own zone can take. It keeps all of its work while the healthy
        part of its weight times this is at least 1, and of less keeps that part; the rest goes to the other zones. 1.4,
        as in Envoy: with 71% of it healthy, nothing leaves.
    :param panic_threshold: when a smaller share than this of the primaries is healthy, all are used as if healthy: few
        cannot carry the work of many, and would follow them. 0.5 as in Envoy; 0: only when none is left.
    :param max_ejected: share of the targets that passive health and outlier detection may have out at a time, though
        one always; 0: none. Who would be one more keeps a tenth of its weight, or starts anew. 1.0: a target that
        refuses connections is better left alone, however many do; ``Outliers`` has a cap of its own. Health checks have
        none.
    :param slow_start: of those that join or come back; ``None``: they get all of their weight at once.
    :param evaluate_every: seconds between two evaluations of outliers. 1.
    """

    balance: str = "weighted-round-robin"
    zone: str = ""
    zone_headroom: float = 1.4
    panic_threshold: float = 0.5
    max_ejected: float = 1.0
    slow_start: SlowStart | None = SlowStart()  # noqa: RUF009 - it is frozen
    evaluate_every: float = 1.0

    def __post_init__(self) -> None:
        make_balancer(self.balance)
        if not self.zone_headroom >= 1:
            raise ValueError(f"zone_headroom {self.zone_headroom}: must be at least 1")
        for name in ("panic_threshold", "max_ejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        if not self.evaluate_every > 0:
            raise ValueError(f"evaluate_every {self.evaluate_every}: must be above 0")

    def most_ejected(self, targets: int) -> int:
        """How many of ``targets`` may be out at a time."""
        return max(1, int(targets * self.max_ejected + 1e-9)) if self.max_ejected else 0
