"""Whether a target may be used: judged by the requests it failed (passive), and by asking it (active)."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["ActiveHealth", "PassiveHealth", "Standing"]

_REASONS = 32  # reasons counted apart; the rest is "other", so that a careless caller cannot fill the memory


class Standing(Enum):
    """How a target stands in passive health.

    ========  =================  ====================================  =========
    from      event              condition                             to
    ========  =================  ====================================  =========
    UP        failure            ``max_fails`` within ``fail_timeout``  DOWN
    DOWN      time               ``fail_timeout`` has passed           DOWN, and one request may try it
    DOWN      try begins                                               PROBING
    any       success                                                  UP
    PROBING   failure                                                  DOWN
    PROBING   no verdict         the client left                       DOWN, and one request may try it
    any       reset                                                    UP
    any       switched off                                             UP, and stays there
    ========  =================  ====================================  =========
    """

    UP = "up"
    DOWN = "down"
    PROBING = "probing"


class PassiveHealth:
    """Takes a target out that failed too often, and lets it back in by one request at a time.

    :param max_fails: failures that take it out; 0: it is never taken out. The default, 1, suits requests that can be
        tried elsewhere: a target that failed one is left alone for a while, which costs the others little.
    :param fail_timeout: seconds within which failures count together, and seconds it stays out. The default, 10, is
        about what a restart takes.
    :param enabled: whether anything is taken out; failures are counted in any case.
    :raises ValueError: ``max_fails`` or ``fail_timeout`` is below 0.

    A failure more than ``fail_timeout`` after the first one of a run begins a new run. A success does not end a run:
    a target that fails half of its requests is to be taken out.
    """

    __slots__ = (
        "_by_reason",
        "_ejections",
        "_enabled",
        "_probes",
        "_probes_failed",
        "_reason",
        "_returns",
        "fail_timeout",
        "fails",
        "max_fails",
        "since",
        "standing",
        "until",
    )

    def __init__(self, max_fails: int = 1, fail_timeout: float = 10.0, *, enabled: bool = True) -> None:
        if not max_fails >= 0:
            raise ValueError(f"max_fails {max_fails}: must be at least 0")
        if not fail_timeout >= 0:
            raise ValueError(f"fail_timeout {fail_timeout}: must be at least 0")
        self.max_fails = max_fails
        self.fail_timeout = fail_timeout
        self.standing = Standing.UP
        self.fails = 0
        self.since = 0.0  # the first failure of the run
        self.until = 0.0  # while DOWN: when it may be tried
        self._enabled = enabled
        self._reason = ""  # of the last failure that counted against it
        self._probes_failed = 0  # in a row, since it went down
        self._probes = 0
        self._ejections = 0
        self._returns = 0
        self._by_reason: dict[str, int] = {}

    @property
    def enabled(self) -> bool:
        """Whether it may be taken out. Switched off, it is up at once, and what spoke against it is forgotten."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        if not enabled:
            self.reset()

    def why(self) -> str:
        """What took it out, with figures: ``3 failures within 10 s: connect-failed``. Empty while it is up."""
        if self.standing is Standing.UP:
            return ""
        said = f"{_counted(self.fails, 'failure')} within {self.fail_timeout:g} s"
        if self._probes_failed:
            said += f", {_counted(self._probes_failed, 'failed probe')} since"
        return f"{said}: {self._reason}" if self._reason else said

    def allows(self, now: float) -> bool:
        """Whether a request may go there now."""
        if self.standing is Standing.UP:
            return True
        return self.standing is Standing.DOWN and now >= self.until

    def begin(self, now: float) -> bool:
        """A request goes there. True when it is the one that decides whether the target comes back.

        A request that goes to a target that is out, for want of a better one, decides nothing by failing.
        """
        if self.standing is not Standing.DOWN or now < self.until:
            return False
        self.standing = Standing.PROBING
        self._probes += 1
        return True

    def success(self) -> bool:
        """A request was answered. True when that brought the target back."""
        if self.standing is Standing.UP:
            return False
        self.reset()
        self._returns += 1
        return True

    def failure(self, now: float, reason: str = "") -> bool:
        """A request failed. True when that took the target out (or keeps it out after a probe).

        :param reason: why, in a short word that never changes: what is counted under, and said by :meth:`why`.
        """
        by_reason = self._by_reason
        counted = reason if reason in by_reason or len(by_reason) < _REASONS else "other"
        by_reason[counted] = by_reason.get(counted, 0) + 1
        if not self.max_fails or not self._enabled:
            return False
        if self.standing is Standing.UP:
            if now - self.since > self.fail_timeout:
                self.fails = 0
            if not self.fails:
                self.since = now
            self.fails += 1
            if self.fails < self.max_fails:
                return False
            self._ejections += 1
        elif self.standing is Standing.DOWN:
            return False  # a request from before it went down; it is out already
        else:
            self._probes_failed += 1
        self._reason = reason
        self.standing = Standing.DOWN
        self.until = now + self.fail_timeout
        return True

    def undecided(self) -> None:
        """The probe ended without a verdict: the next request may be one."""
        if self.standing is Standing.PROBING:
            self.standing = Standing.DOWN

    def reset(self) -> None:
        """Forget everything that speaks against it: it is up. Counts stay."""
        self.standing = Standing.UP
        self.fails = 0
        self.until = 0.0
        self._reason = ""
        self._probes_failed = 0

    def statistics(self) -> dict[str, Any]:
        """How it stands and why, and counts: ``failures`` by reason, ``ejections``, ``probes``, ``returns``."""
        return {
            "enabled": self._enabled,
            "standing": self.standing.value,
            "why": self.why(),
            "fails": self.fails,
            "failures": dict(self._by_reason),
            "ejections": self._ejections,
            "probes": self._probes,
            "returns": self._returns,
        }


class ActiveHealth:
    """What a series of checks says.

    :param rise: good results in a row that bring the target back. The default, 2: one may be luck.
    :param fall: bad results in a row that take it out. The default, 3: one lost packet is no outage, and it is still
        found within three intervals.
    :param enabled: whether checks have any effect; they are counted in any case.
    :raises ValueError: ``rise`` or ``fall`` is below 1.

    A target is up until checks say otherwise, so a new one is used at once.
    """

    __slots__ = ("_bad", "_enabled", "_falls", "_good", "_out_for", "_rises", "_run", "_why", "fall", "rise", "up")

    def __init__(self, rise: int = 2, fall: int = 3, *, enabled: bool = True) -> None:
        if not rise >= 1:
            raise ValueError(f"rise {rise}: must be at least 1")
        if not fall >= 1:
            raise ValueError(f"fall {fall}: must be at least 1")
        self.rise = rise
        self.fall = fall
        self.up = True
        self._enabled = enabled
        self._run = 0  # results in a row that speak against ``up``
        self._why = ""  # of the last bad result in a row
        self._out_for = 0  # bad results in a row, while it is out
        self._good = 0
        self._bad = 0
        self._falls = 0
        self._rises = 0

    @property
    def enabled(self) -> bool:
        """Whether checks have any effect. Switched off, it is up at once, and what checks said is forgotten."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        if not enabled:
            self.up = True
            self._run = self._out_for = 0

    def why(self) -> str:
        """What took it out, with figures: ``3 failed checks in a row: status 503``. Empty while it is up."""
        if self.up:
            return ""
        if not self._out_for:  # how it stands was taken over from another
            return "checks failed"
        said = f"{_counted(self._out_for, 'failed check')} in a row"
        return f"{said}: {self._why}" if self._why else said

    def result(self, good: bool, why: str = "") -> bool:
        """Take the result of a check. True when ``up`` changed by it.

        :param why: what was wrong, for people.
        """
        if good:
            self._good += 1
        else:
            self._bad += 1
            self._why = why
        if not self._enabled:
            return False
        if good is self.up:
            if not good:
                # a good one between did not bring it back: the row has begun anew
                self._out_for = 1 if self._run else self._out_for + 1
            self._run = 0
            return False
        self._run += 1
        if self._run < (self.rise if good else self.fall):
            return False
        self.up = good
        if good:
            self._rises += 1
            self._out_for = 0
        else:
            self._falls += 1
            self._out_for = self._run
        self._run = 0
        return True

    def statistics(self) -> dict[str, Any]:
        """How it stands and why, and counts: ``good`` and ``bad`` results, ``falls`` and ``rises``."""
        return {
            "enabled": self._enabled,
            "up": self.up,
            "why": self.why(),
            "good": self._good,
            "bad": self._bad,
            "falls": self._falls,
            "rises": self._rises,
        }


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
