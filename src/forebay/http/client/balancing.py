"""How one of several servers is chosen, and how they are asked how they are: the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forebay.engine.health_checks import CheckTiming
from forebay.http.client.request import ClientRequest
from forebay.http.client.url import parse_url
from forebay.policy.balance import make_balancer
from forebay.policy.hashing import Hashing
from forebay.policy.health import ActiveHealth, PassiveHealth
from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.target_rules import TargetRules

__all__ = ["Balancing", "HealthCheck"]

_RULES = TargetRules("p2c-ewma")
_OUTLIERS = OutlierRules()


@dataclass(frozen=True, slots=True)
class Balancing:
    """How one of several targets is chosen, and what counts against one.

    :param rules: of the choice. By default the less busy and faster one of two at random (``p2c-ewma``).
    :param outliers: finds targets that do badly next to the others; ``None``: nobody does.
    :param key: of a request, for the rules that hash (``consistent-hash``, ``maglev``): equal keys go to the same
        target.
    :param failed_statuses: of answers that are failures of the target: those that say that it, or what is behind it, is
        not there. 500 is not among them: many applications answer a bad request with it. Add it where they do not.
    :param max_fails: failures within ``fail_timeout`` that take a target out for as long, whatever the others do; 0:
        none, it is left to ``outliers``.
    :param fail_timeout: seconds.
    :param first_set: seconds that requests wait for the first set of targets of a resolver.
    :raises ValueError: one is out of range, or the rules want a ``key`` and there is none.
    """

    rules: TargetRules = _RULES
    outliers: OutlierRules | None = _OUTLIERS
    key: Callable[[ClientRequest], str] | None = None
    failed_statuses: frozenset[int] = frozenset({502, 503, 504})
    max_fails: int = 0
    fail_timeout: float = 10.0
    first_set: float = 5.0

    def __post_init__(self) -> None:
        PassiveHealth(self.max_fails, self.fail_timeout)
        if not self.first_set > 0:
            raise ValueError(f"first_set {self.first_set}: must be above 0 seconds")
        if bad := [status for status in self.failed_statuses if not 400 <= status <= 599]:
            raise ValueError(f"failed_statuses {bad[0]}: must be 400 to 599")
        if self.key is None and isinstance(make_balancer(self.rules.balance), Hashing):
            raise ValueError(f"key None: {self.rules.balance} needs to be told what of a request it is to go by")

    @classmethod
    def of(cls, given: str | TargetRules | Balancing | None) -> Balancing:
        """What was given for it: the name of a balancer, rules, all of it, or nothing."""
        if given is None:
            return cls()
        if isinstance(given, str):
            return cls(TargetRules(given))
        return cls(given) if isinstance(given, TargetRules) else given


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Targets are asked, again and again, whether they are well: a GET of ``path`` that is answered with less than 400.

    :param path: begins with ``/``.
    :param interval: seconds between the beginnings of two checks of a target.
    :param timeout: seconds that one may take.
    :param rise: good ones in a row that bring a target back.
    :param fall: bad ones in a row that take it out.
    :raises ValueError: one is out of range.
    """

    path: str = "/livez"
    interval: float = 5.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path {self.path!r}: must begin with /")
        parse_url(f"http://target{self.path}")
        CheckTiming(self.interval, self.timeout)
        ActiveHealth(self.rise, self.fall)
