"""Whether work that failed may be tried again, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from forebay.errors import ForebayError, RetryClass
from forebay.policy.backoff import Backoff
from forebay.policy.budget import RetryBudget

__all__ = ["IDEMPOTENT", "Again", "Retry"]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Methods that may be processed twice with the effect of once (RFC 9110 section 9.2.2)."""

_NOT_PROCESSED = frozenset({425, 429})  # by what they mean (RFC 8470 section 5.2, RFC 6585 section 4)
_SAFE, _MAYBE, _NEVER = RetryClass.SAFE, RetryClass.MAYBE, RetryClass.NEVER  # a look-up in an Enum is slow
_SOURCE = random.Random()  # noqa: S311 - clients are spread with it, nothing is secret


class Again(NamedTuple):
    """The verdict about work that failed.

    :ivar again: whether it is tried again.
    :ivar delay: seconds to wait before; 0.0 when it is not tried again.
    :ivar reason: why, in a short word that never changes; see :meth:`Retry.decide`.
    """

    again: bool
    delay: float
    reason: str


_SUCCESS = Again(False, 0.0, "success")
_CANCELLED = Again(False, 0.0, "cancelled")
_NOT_RETRYABLE = Again(False, 0.0, "not-retryable")
_NOT_IDEMPOTENT = Again(False, 0.0, "not-idempotent")
_ATTEMPTS = Again(False, 0.0, "attempts")
_RETRY_AFTER_TOO_LONG = Again(False, 0.0, "retry-after-too-long")
_TOTAL = Again(False, 0.0, "total")
_DEADLINE = Again(False, 0.0, "deadline")
_BUDGET = Again(False, 0.0, "budget")


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again. The rules only: what is counted is in a :class:`~forebay.policy.budget.RetryBudget`.

    :param attempts: tries in all, the first one included; 1 turns retrying off. Three get past what is broken for a
        moment; more mostly make the answer later, and the same.
    :param backoff: the waits between tries; None: none, for those who try on another target.
    :param total: seconds from the beginning of the first try within which the last one has to begin, above 0; None: the
        deadline alone bounds them.
    :param statuses: of answers, for which it is tried again: those that blame the moment (429, 503) or the way (502,
        504), and not the request.
    :param methods: those that are idempotent, where nobody says it of the work itself.
    :param respect_retry_after: whether to wait as long as the answer asks, at least.
    :param max_retry_after: seconds. Whoever asks for a longer wait is not waited for: who waits for an answer seldom
        has more. So tries end when a breaker with its default times opens among them.
    :param budget_share: of the requests, 0 to 1, that may be tried again: see :meth:`new_budget`. None: there is no
        budget.
    :param on: exceptions of others after which work may have been done in part, so that it is tried again when it is
        idempotent; subclasses of ``Exception``. By default connections that broke and time that ran out, and nothing
        else: an unknown exception is more likely a mistake that repeats itself. A ForebayError of one of these is tried
        again too, even though its class says ``never``.
    """

    attempts: int = 3
    backoff: Backoff | None = field(default_factory=Backoff)
    total: float | None = None
    statuses: frozenset[int] = frozenset({429, 502, 503, 504})
    methods: frozenset[str] = IDEMPOTENT
    respect_retry_after: bool = True
    max_retry_after: float = 10.0
    budget_share: float | None = 0.2
    on: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts {self.attempts}: must be at least 1")
        if self.total is not None and not self.total > 0:
            raise ValueError(f"total {self.total}: must be above 0")
        if not self.max_retry_after >= 0:
            raise ValueError(f"max_retry_after {self.max_retry_after}: must be at least 0")
        if self.budget_share is not None and not 0 <= self.budget_share <= 1:
            raise ValueError(f"budget_share {self.budget_share}: must be 0 to 1")
        if bad := [status for status in self.statuses if not 400 <= status <= 599]:
            raise ValueError(f"statuses {bad[0]}: must be 400 to 599")
        if wrong := [kind for kind in self.on if not issubclass(kind, Exception)]:
            raise ValueError(f"on {wrong[0].__name__}: must be an Exception: cancelled work is never tried again")

    def new_budget(self) -> RetryBudget | None:
        """A budget by these rules. One is shared by everything that calls one service."""
        return None if self.budget_share is None else RetryBudget(self.budget_share)

    def decide(
        self,
        *,
        error: BaseException | None,
        status: int | None = None,
        method: str = "",
        idempotent: bool | None = None,
        attempt: int,
        began: float,
        now: float,
        deadline: float = inf,
        retry_after: float | None = None,
        previous: float = 0.0,
        budget: RetryBudget | None,
        source: random.Random = _SOURCE,
    ) -> Again:
        """Whether and when to try again after try number ``attempt`` (the first is 1) ended at ``now``.

        ========================  ============================================================================
        reason                    it is
        ========================  ============================================================================
        ``retry``                 tried again after ``delay``
        ``success``               no failure: neither an error, nor a status of 400 or more
        ``cancelled``             told to stop (any exception that is no ``Exception``), which is always obeyed
        ``not-retryable``         a failure that would be the same the next time
        ``not-idempotent``        a failure that may have come after the work was done, and work not to be done twice
        ``attempts``              the last try
        ``retry-after-too-long``  past ``max_retry_after``
        ``total``                 past ``total``
        ``deadline``              over before the next try would begin
        ``budget``                one more than the budget has
        ========================  ============================================================================

        The error's ``retry`` class decides, and where there is no error, or one that says ``never``, the answer's
        status does: 429 and 425 say that nothing was done, so that any work goes again; others of ``statuses`` are no
        proof of it, so that only idempotent work does.

        The budget is asked last: what is not tried again for another reason takes nothing from it.

        :param status: of the answer, when there was one.
        :param idempotent: whether the work may be done twice; None: as ``method`` says, and without a method it may
            not.
        :param began: when the first try began.
        :param deadline: when nobody waits any more.
        :param retry_after: seconds the answer asks to wait; None: as the error says, if it does (``retry_after`` of
            ``Overloaded`` and ``CircuitOpen``). 0.0 overrides that, for those who try on another target.
        :param previous: the ``delay`` of the verdict before; 0.0 at first.
        :param budget: None: there is none. Its :meth:`~forebay.policy.budget.RetryBudget.deposit` is the caller's task.
        """
        if error is not None and not isinstance(error, Exception):
            return _CANCELLED
        kind = error.retry if isinstance(error, ForebayError) else _NEVER
        if kind is _NEVER:
            if status is not None and status in self.statuses:
                kind = _SAFE if status in _NOT_PROCESSED else _MAYBE
            elif error is None and (status is None or status < 400):
                return _SUCCESS
            elif isinstance(error, self.on):
                kind = _MAYBE
            else:
                return _NOT_RETRYABLE
        if kind is _MAYBE and not (method in self.methods if idempotent is None else idempotent):
            return _NOT_IDEMPOTENT
        if attempt >= self.attempts:
            return _ATTEMPTS
        delay = 0.0
        if self.backoff is not None:
            delay = self.backoff.draw(attempt - 1 if attempt > 1 else 0, previous, source)
        if self.respect_retry_after:
            if retry_after is None and isinstance(error, ForebayError):
                retry_after = getattr(error, "retry_after", None)  # not all have it
            if retry_after is not None and retry_after > 0:
                if retry_after > self.max_retry_after:
                    return _RETRY_AFTER_TOO_LONG
                delay += retry_after  # not the greater of both: all who were told the same moment would come in it
        if self.total is not None and now + delay - began > self.total:
            return _TOTAL
        if now + delay >= deadline:
            return _DEADLINE
        if budget is not None and not budget.spend(now):
            return _BUDGET
        return Again(True, delay, "retry")
