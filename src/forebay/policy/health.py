"""Whether a target may be used: judged by the requests it failed (passive), and by asking it (active)."""

from __future__ import annotations

from enum import Enum

__all__ = ["ActiveHealth", "PassiveHealth", "Standing"]


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
    ========  =================  ====================================  =========
    """

    UP = "up"
    DOWN = "down"
    PROBING = "probing"


class PassiveHealth:
    """Takes a target out that failed too often, and lets it back in by one request at a time.

    :param max_fails: failures that take it out; 0: it is never taken out.
    :param fail_timeout: seconds within which failures count together, and seconds it stays out.

    A failure more than ``fail_timeout`` after the first one of a run begins a new run. A success does not end a run:
    a target that fails half of its requests is to be taken out.
    """

    __slots__ = ("fail_timeout", "fails", "max_fails", "since", "standing", "until")

    def __init__(self, max_fails: int = 1, fail_timeout: float = 10.0) -> None:
        self.max_fails = max_fails
        self.fail_timeout = fail_timeout
        self.standing = Standing.UP
        self.fails = 0
        self.since = 0.0  # the first failure of the run
        self.until = 0.0  # while DOWN: when it may be tried

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
        return True

    def success(self) -> bool:
        """A request was answered. True when that brought the target back."""
        if self.standing is Standing.UP:
            return False
        self.reset()
        return True

    def failure(self, now: float) -> bool:
        """A request failed. True when that took the target out (or keeps it out after a probe)."""
        if not self.max_fails:
            return False
        if self.standing is Standing.UP:
            if now - self.since > self.fail_timeout:
                self.fails = 0
            if not self.fails:
                self.since = now
            self.fails += 1
            if self.fails < self.max_fails:
                return False
        elif self.standing is Standing.DOWN:
            return False  # a request from before it went down; it is out already
        self.standing = Standing.DOWN
        self.until = now + self.fail_timeout
        return True

    def undecided(self) -> None:
        """The probe ended without a verdict: the next request may be one."""
        if self.standing is Standing.PROBING:
            self.standing = Standing.DOWN

    def reset(self) -> None:
        """Forget everything: it is up."""
        self.standing = Standing.UP
        self.fails = 0
        self.until = 0.0


class ActiveHealth:
    """What a series of checks says.

    :param rise: good results in a row that bring the target back.
    :param fall: bad results in a row that take it out.

    A target is up until checks say otherwise, so a new one is used at once.
    """

    __slots__ = ("_run", "fall", "rise", "up")

    def __init__(self, rise: int = 2, fall: int = 3) -> None:
        self.rise = rise
        self.fall = fall
        self.up = True
        self._run = 0  # results in a row that speak against ``up``

    def result(self, good: bool) -> bool:
        """Take the result of a check. True when ``up`` changed by it."""
        if good is self.up:
            self._run = 0
            return False
        self._run += 1
        if self._run < (self.rise if good else self.fall):
            return False
        self.up = good
        self._run = 0
        return True
