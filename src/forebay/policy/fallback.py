"""What is answered in place of what failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forebay.errors import ConnectionClosed, DeadlineExceeded, Overloaded, UpstreamError

__all__ = ["FAILURES", "Fallback", "Fallbacks", "Substitute"]

FAILURES: tuple[type[BaseException], ...] = (
    UpstreamError,
    ConnectionClosed,
    Overloaded,
    DeadlineExceeded,
    ConnectionError,
    TimeoutError,
)
"""What says that the other side, or the way there, failed. Other errors are faults of the program or its input: to
hide them behind a fallback would be to lose them."""

_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Fallback:
    """Answers for work that failed. Of what is given, the first that has an answer: the last good one, what
    ``function`` makes, ``value``.

    :param value: the answer; not given: there is none.
    :param function: takes the error, and returns the answer or something to await.
    :param last_good: seconds for which the last good answer may stand in; 0 (default): it is not kept.
    :param max_keys: last good answers kept at most, by key; the one that was stored longest ago goes first.
    :param on: the errors it is for; those of :data:`FAILURES` by default. A cancellation never is.
    :raises ValueError: there is nothing to answer with, or a bound is out of its range.
    """

    value: Any = _NOTHING
    function: Callable[[BaseException], Any] | None = None
    last_good: float = 0.0
    max_keys: int = 100
    on: tuple[type[BaseException], ...] = FAILURES

    def __post_init__(self) -> None:
        if self.value is _NOTHING and self.function is None and not self.last_good:
            raise ValueError("Fallback: give a value, a function, or last_good seconds")
        if not self.last_good >= 0:
            raise ValueError(f"last_good {self.last_good}: must be at least 0 seconds")
        if self.max_keys < 1:
            raise ValueError(f"max_keys {self.max_keys}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Substitute:
    """The verdict on work that failed.

    :ivar found: whether there is an answer in its place.
    :ivar value: the answer.
    :ivar call: ``value`` is a function to call with the error instead.
    :ivar reason: ``last-good``, ``function``, ``value``; or why there is none: ``error`` (not one that it is for),
        ``off``, ``nothing``.
    """

    found: bool
    value: Any
    call: bool
    reason: str


class Fallbacks:
    """A fallback at work: keeps the last good answers, and counts.

    Switched off with ``enabled``, errors pass as they are; good answers are still kept.
    """

    __slots__ = ("_good", "enabled", "rules", "substitutes")

    def __init__(self, rules: Fallback, *, enabled: bool = True) -> None:
        self.rules = rules
        self.enabled = enabled
        self.substitutes: dict[str, int] = {}
        self._good: dict[Any, tuple[float, Any]] = {}  # ordered: the one stored last is last

    def remember(self, key: Any, value: Any, now: float) -> None:
        """``value`` is a good answer to ``key``."""
        if not self.rules.last_good:
            return
        good = self._good
        good.pop(key, None)
        good[key] = now, value
        if len(good) > self.rules.max_keys:
            del good[next(iter(good))]

    def answer(self, key: Any, error: BaseException, now: float) -> Substitute:
        """What stands in for the answer to ``key``, which failed with ``error``."""
        verdict = self._answer(key, error, now)
        self.substitutes[verdict.reason] = self.substitutes.get(verdict.reason, 0) + 1
        return verdict

    def _answer(self, key: Any, error: BaseException, now: float) -> Substitute:
        rules = self.rules
        if not self.enabled:
            return Substitute(False, None, False, "off")
        if not isinstance(error, Exception) or not isinstance(error, rules.on):  # no cancellation, whatever ``on`` says
            return Substitute(False, None, False, "error")
        kept = self._good.get(key) if rules.last_good else None
        if kept is not None and now - kept[0] <= rules.last_good:
            return Substitute(True, kept[1], False, "last-good")
        if rules.function is not None:
            return Substitute(True, rules.function, True, "function")
        if rules.value is not _NOTHING:
            return Substitute(True, rules.value, False, "value")
        return Substitute(False, None, False, "nothing")

    def statistics(self) -> dict[str, Any]:
        """How often there was which substitute, and how many good answers are kept."""
        return {"enabled": self.enabled, "substitutes": dict(self.substitutes), "kept": len(self._good)}
