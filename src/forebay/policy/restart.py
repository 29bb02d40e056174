"""Whether a worker that died is started again, and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from forebay.policy.backoff import Backoff

__all__ = ["RestartHistory", "RestartPolicy", "Verdict"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to restart, and when to give up.

    :param deaths: this many deaths within ``window`` seconds are a crash loop.
    :param window: seconds.
    :param good_life: seconds a worker has to live for the backoff to begin anew after it.
    :param backoff: the delays between restarts.
    """

    deaths: int = 5
    window: float = 30.0
    good_life: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        if self.deaths < 1:
            raise ValueError(f"deaths {self.deaths}: must be at least 1")
        if self.window <= 0:
            raise ValueError(f"window {self.window}: must be above 0")
        if self.good_life < 0:
            raise ValueError(f"good_life {self.good_life}: must be at least 0")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a death: restart in ``delay`` seconds, or not again."""

    restart: bool
    delay: float
    deaths: int  # in the window, this one included
    span: float  # seconds from the first of them to this one


class RestartHistory:
    """The deaths in one worker's place."""

    __slots__ = ("_deaths", "_in_a_row", "policy")

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self._deaths: deque[float] = deque(maxlen=policy.deaths)
        self._in_a_row = 0

    def died(self, now: float, lived: float) -> Verdict:
        """Decide after a death.

        :param now: when it died, in seconds on any clock that does not go back.
        :param lived: for how many seconds it did its work; 0 when it did not come to that.
        """
        policy = self.policy
        self._deaths.append(now)
        while now - self._deaths[0] > policy.window:
            self._deaths.popleft()
        deaths, span = len(self._deaths), now - self._deaths[0]
        if deaths >= policy.deaths:
            return Verdict(False, 0.0, deaths, span)
        if lived >= policy.good_life:
            self._in_a_row = 0
        delay = policy.backoff.delay(self._in_a_row)
        self._in_a_row += 1
        return Verdict(True, delay, deaths, span)
