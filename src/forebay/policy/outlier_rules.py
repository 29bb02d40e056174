"""What makes a target of a group an outlier, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["OutlierRules"]


@dataclass(frozen=True, slots=True)
class OutlierRules:
    """The rules of outlier detection, for all targets of a group. The defaults suit requests that people wait for.

    *Failing*: a target that fails is ejected at once.

    :param window: seconds for which calls are remembered, finite. 30: long enough for figures that mean something at a
        few calls a second, short enough to forget a restart.
    :param consecutive_failures: failures in a row that eject; 0: any number is fine. 5: finds a dead target long before
        ``min_calls`` are together, and is improbable (1 in 100,000) for one that fails a tenth of its calls.
    :param error_rate: share of failed calls past which a target is ejected; 1.0: any share is fine. 0.5: it does more
        harm than good, whatever the others do.
    :param min_calls: calls within ``window`` below which a share says nothing.
    :param deviation: a target stands out when its share of good calls is below the group's mean by more than so many
        standard deviations; ``inf``: it never does. 1.9, and as one of n targets can never be further away than
        sqrt(n - 1), groups of less than five have no such outliers.
    :param deviation_margin: and by more than this share: in a group that is nearly perfect one error stands out.

    *Slow*: a target that is slow gets less and less weight, and is ejected only when that does not help: a slow answer
    is still an answer, and many a target is slow because it has too much to do.

    :param latency_quantile: the part of the calls that have to be in time; 0.99.
    :param latency_limit: seconds that quantile may be; ``inf``: any. 2: people begin to leave.
    :param latency_ratio: how many times the group's median of that quantile it may be; ``inf``: any. 5, because a p99
        is a rough figure.
    :param latency_floor: seconds that are never too slow by comparison. 0.1: nobody notices.
    :param latency_calls: calls within ``window`` below which the quantile says nothing. 100: of less, the p99 is the
        slowest one.
    :param steps: the factors its weight gets in turn, falling, before it leaves; empty: it leaves at once.
    :param step_time: seconds between two steps, down or up. Each step is judged by the calls after the last one only.

    *Out and back*:

    :param ejection_time: seconds a target is out, the first time; twice that the second time, and so on ...
    :param ejection_cap: ... up to so many.
    :param good_time: seconds in use, with full weight, after which one of its ejections is forgotten.
    :param max_ejected: share of the group that may be out at a time; 0: none, all that targets lose is weight. 0.5: if
        more than half is bad, the fault is elsewhere, and the rest could not take the work anyway. It is rounded down,
        but of two or more targets one may always be out, or a small group would have no detection at all, and one
        always stays.

    Comparisons (``deviation``, ``latency_ratio``) are made when at least ``min_group`` targets have enough calls.
    """

    window: float = 30.0
    consecutive_failures: int = 5
    error_rate: float = 0.5
    min_calls: int = 20
    deviation: float = 1.9
    deviation_margin: float = 0.05
    latency_quantile: float = 0.99
    latency_limit: float = 2.0
    latency_ratio: float = 5.0
    latency_floor: float = 0.1
    latency_calls: int = 100
    min_group: int = 3
    steps: tuple[float, ...] = (0.5, 0.25)
    step_time: float = 10.0
    ejection_time: float = 30.0
    ejection_cap: float = 300.0
    good_time: float = 60.0
    max_ejected: float = 0.5

    def __post_init__(self) -> None:
        for name in (
            "window",
            "deviation",
            "latency_limit",
            "latency_ratio",
            "step_time",
            "ejection_time",
            "good_time",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")
        if self.window == inf:
            raise ValueError(f"window {self.window}: must be finite")
        for name in ("min_calls", "latency_calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("error_rate", "deviation_margin", "max_ejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        if self.consecutive_failures < 0:
            raise ValueError(f"consecutive_failures {self.consecutive_failures}: must be at least 0")
        if not 0 < self.latency_quantile < 1:
            raise ValueError(f"latency_quantile {self.latency_quantile}: must be above 0 and below 1")
        if not self.latency_floor >= 0:
            raise ValueError(f"latency_floor {self.latency_floor}: must be at least 0")
        if self.min_group < 2:
            raise ValueError(f"min_group {self.min_group}: must be at least 2")
        if any(not 0 < low < high for high, low in zip((1.0, *self.steps), self.steps, strict=False)):
            raise ValueError(f"steps {self.steps}: must fall, from below 1 to above 0")
        if not self.ejection_cap >= self.ejection_time:
            raise ValueError(f"ejection_cap {self.ejection_cap}: must be at least ejection_time, {self.ejection_time}")

    def most_ejected(self, targets: int) -> int:
        """How many of ``targets`` may be out at a time."""
        if targets < 2 or not self.max_ejected:
            return 0
        share = int(targets * self.max_ejected + 1e-9)  # 0.29 of 100 is 29
        return min(targets - 1, max(1, share))
