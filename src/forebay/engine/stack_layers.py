"""The layers of a stack: each lets one policy decide about a call on its way, and does what it says."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable
from typing import Any

import structlog

from forebay.engine.bulkheads import DROPPED, Slots
from forebay.engine.deadlines import TimeLimits
from forebay.engine.hedging import discard, hedged
from forebay.engine.loop import Cancelled, now, sleep
from forebay.engine.stack_call import Call, Layer, status_of
from forebay.engine.throttle import Throttle
from forebay.errors import CircuitOpen, DeadlineExceeded, HTTPError, Overloaded
from forebay.policy.breaker import Breaker, Circuit, Circuits
from forebay.policy.budget import RetryBudget
from forebay.policy.deadline import deadline
from forebay.policy.fallback import Fallbacks
from forebay.policy.hedge import Hedger
from forebay.policy.limiters import Limiter
from forebay.policy.priority import Priority
from forebay.policy.retry import Retry
from forebay.policy.retry_after import parse_retry_after

__all__ = [
    "BreakerLayer",
    "BulkheadLayer",
    "FallbackLayer",
    "HedgeLayer",
    "LimiterLayer",
    "RetryLayer",
    "TimeoutLayer",
    "asked_to_wait",
    "failed_by_default",
]

log = structlog.get_logger("forebay.engine")

_SOURCE = random.Random()  # noqa: S311 - clients are spread with it, nothing is secret


class FallbackLayer(Layer):
    """Answers in place of what failed."""

    state: Fallbacks

    def __init__(self, state: Fallbacks, key: Callable[[Any], Any] | None) -> None:
        self.state = state
        self._key = key

    def __repr__(self) -> str:
        return "fallback"

    async def __call__(self, call: Call) -> Any:
        state = self.state
        try:
            result = await self.next(call)
        except Exception as error:  # of whatever is called; raised again where there is no answer in its place
            found = state.answer(self._key_of(call), error, now())
            if not found.found:
                raise
            log.debug("fallback", reason=found.reason, error=str(error))
            if not found.call:
                return found.value if status_of(found.value) is None else _copy_of(found.value)
            answer = found.value(error)
            return await answer if inspect.isawaitable(answer) else answer
        if state.rules.last_good:
            if status_of(result) is None:
                state.remember(self._key_of(call), result, now())
            elif _can_be_kept(result):
                state.remember(self._key_of(call), _copy_of(result), now())
        return result

    def _key_of(self, call: Call) -> Any:
        if not self.state.rules.last_good:
            return None
        if self._key is not None:
            return self._key(call.subject)
        return call.args, tuple(sorted(call.kwargs.items()))

    @property
    def needs_key(self) -> bool:
        """Whether it keeps answers, and nobody has said to what: requests do not tell that by themselves."""
        return self._key is None and self.state.rules.last_good > 0

    def statistics(self) -> dict[str, Any]:
        return self.state.statistics()


def _can_be_kept(response: Any) -> bool:
    """Whether a response may be given to others later: no failure, no stream, and without cookies of a client."""
    status = status_of(response)
    if status is None or status >= 500 or getattr(response, "stream", None) is not None:
        return False
    get = getattr(getattr(response, "headers", None), "get", None)
    return get is None or get("set-cookie") is None


def _copy_of(response: Any) -> Any:
    """A response whose headers may be changed without changing those of the one that is kept."""
    copy = getattr(response, "copy", None)
    return response if copy is None else copy()


class TimeoutLayer(Layer):
    """Ends a call when its time is over.

    :param whole: it is around all tries, and what happens within is to know whose time it was.
    """

    enabled: bool = True

    def __init__(self, seconds: float, *, whole: bool) -> None:
        self.seconds = seconds
        self.calls = self.exceeded = 0
        self._limits = TimeLimits(seconds)
        self._whole = whole

    def __repr__(self) -> str:
        return f"{'timeout' if self._whole else 'attempt_timeout'}({self.seconds:g} s)"

    async def __call__(self, call: Call) -> Any:
        self.calls += 1
        if not self.enabled:
            return await self.next(call)
        limit = self._limits.new()
        if self._whole:
            call.limit = limit
        else:
            call.attempt = limit
        limit.enter(call.at)
        try:
            result = await self.next(call)
        except Cancelled as error:
            if not limit.leave():
                raise
            self.exceeded += 1
            raise limit.error() from error
        except BaseException as error:
            limit.leave()
            if limit.owns(error):
                self.exceeded += 1
                raise limit.error() from error
            raise
        limit.leave()
        return result

    def statistics(self) -> dict[str, Any]:
        return {"enabled": self.enabled, "seconds": self.seconds, "calls": self.calls, "exceeded": self.exceeded}


class RetryLayer(Layer):
    """Makes a call again. A response in whose place another one is to come is let go of.

    :ivar retry_after: the seconds that a response asks to wait; by default what it says in ``Retry-After``.
    """

    enabled: bool = True

    def __init__(self, rules: Retry, budget: RetryBudget | None) -> None:
        self.rules = rules
        self.budget = budget
        self.retry_after: Callable[[Any], float | None] = asked_to_wait
        self.calls = 0
        self.verdicts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"retry({self.rules.attempts} attempts)"

    async def __call__(self, call: Call) -> Any:
        self.calls += 1
        rules = self.rules
        began = call.at
        if self.budget is not None:
            self.budget.deposit(began)
        attempt, delay = 1, 0.0
        while True:
            try:
                result = await self.next(call)
            except Exception as error:  # of whatever is called; raised again where it is not tried again
                verdict = self._decide(call, error, None, None, attempt, began, delay)
                if verdict is None:
                    raise
                delay = verdict
            else:
                status = getattr(result, "status", None)
                if not isinstance(status, int) or status not in rules.statuses:
                    return result
                verdict = self._decide(call, None, status, self.retry_after(result), attempt, began, delay)
                if verdict is None:
                    return result
                delay = verdict
                discard(result)
            attempt += 1
            if delay > 0:
                await sleep(delay)
            call.at = now()

    def _decide(
        self,
        call: Call,
        error: Exception | None,
        status: int | None,
        retry_after: float | None,
        attempt: int,
        began: float,
        previous: float,
    ) -> float | None:
        """The seconds until the next try; None: there is none."""
        if not self.enabled:
            return None
        verdict = self.rules.decide(
            error=error,
            status=status,
            method=call.nature.method,
            idempotent=call.nature.idempotent,
            attempt=attempt,
            began=began,
            now=now(),
            deadline=deadline.current(),
            retry_after=retry_after,
            previous=previous,
            budget=self.budget,
            source=_SOURCE,
        )
        self.verdicts[verdict.reason] = self.verdicts.get(verdict.reason, 0) + 1
        log.debug("retry", again=verdict.again, reason=verdict.reason, delay=verdict.delay, attempt=attempt)
        return verdict.delay if verdict.again else None

    def statistics(self) -> dict[str, Any]:
        return {
            "enabled": self.enabled,
            "calls": self.calls,
            "verdicts": dict(self.verdicts),
            "budget": None if self.budget is None else self.budget.statistics(),
        }


def asked_to_wait(result: Any) -> float | None:
    """What a response says in ``Retry-After``, in seconds."""
    get = getattr(getattr(result, "headers", None), "get", None)
    value = get("retry-after") if get is not None else None
    return parse_retry_after(value, time.time()) if isinstance(value, str) else None


class HedgeLayer(Layer):
    """Makes a slow call a second time beside the first."""

    state: Hedger

    def __init__(self, state: Hedger, *, deposits: bool) -> None:
        self.state = state
        self._deposits = deposits  # into the budget; a retry around it does that already

    def __repr__(self) -> str:
        return f"hedge(p{self.state.rules.quantile * 100:g})"

    async def __call__(self, call: Call) -> Any:
        if self._deposits and self.state.budget is not None:
            self.state.budget.deposit(call.at)

        async def make() -> Any:
            return await self.next(call.beside())

        return await hedged(self.state, make, method=call.nature.method, idempotent=call.nature.idempotent)

    def statistics(self) -> dict[str, Any]:
        return self.state.statistics()


class BreakerLayer(Layer):
    """Leaves alone what failed too often."""

    state: Circuit | Circuits

    def __init__(
        self, state: Circuit | Circuits, target: Callable[[Any], str] | None, failed: Callable[[Any], bool | None]
    ) -> None:
        self.state = state
        self._circuit = state if isinstance(state, Circuit) else None
        self._target = target
        self._failed = failed
        self._by_default = failed is failed_by_default

    def __repr__(self) -> str:
        rules: Breaker = self.state.rules
        return f"breaker({rules.failure_rate:.0%} of {rules.min_calls})"

    async def __call__(self, call: Call) -> Any:
        circuit = self._circuit or self._circuit_of(call)
        began = call.at
        refused = circuit.admit(began)
        if refused is not None:
            after = refused.retry_after or None
            raise CircuitOpen(str(refused), target=circuit.name, retry_after=after, reason=refused.reason)
        try:
            result = await self.next(call)
        except Cancelled:
            ended = now()
            if call.is_late():
                circuit.failure(ended - began, ended)
            else:
                circuit.undecided(ended, ended - began)  # the caller left: nobody knows what would have come
            raise
        except Exception as error:  # of whatever is called; it is counted, and goes on
            limit = call.limit
            self._record(circuit, limit.error() if limit is not None and limit.owns(error) else error, began)
            raise
        except BaseException:
            ended = now()
            circuit.undecided(ended, ended - began)
            raise
        self._record(circuit, result, began)
        return result

    def _circuit_of(self, call: Call) -> Circuit:
        state = self.state
        if isinstance(state, Circuit):
            return state
        return state.of("" if self._target is None else self._target(call.subject))

    def _record(self, circuit: Circuit, outcome: Any, began: float) -> None:
        failed: bool | None = None
        try:
            if self._by_default and getattr(outcome, "status", None) is None and not isinstance(outcome, Exception):
                failed = False  # as it would say, in less time
            else:
                failed = self._failed(outcome)
        finally:  # an error of that is no verdict, and the circuit waits for one
            ended = now()
            if failed is None:
                circuit.undecided(ended, ended - began)
            elif failed:
                circuit.failure(ended - began, ended)
            else:
                circuit.success(ended - began, ended)

    def statistics(self) -> dict[str, Any]:
        return self.state.statistics()


def failed_by_default(outcome: Any) -> bool | None:
    """Whether a call failed, by its result or its error. None: that says nothing about whom it called.

    Failed: any exception but ``HTTPError`` below 500; a result whose ``status`` is 500 or more. Nothing is said by what
    was refused here, before it was sent, and by the deadline of the caller.
    """
    if isinstance(outcome, Exception):
        if isinstance(outcome, Overloaded | CircuitOpen):
            return None
        if isinstance(outcome, DeadlineExceeded):
            return None if outcome.inherited else True
        if isinstance(outcome, HTTPError):
            return outcome.status >= 500
        return True
    status = status_of(outcome)
    return status is not None and status >= 500


class BulkheadLayer(Layer):
    """Holds a place for each call under way, and lets those wait for which there is none."""

    state: Slots

    def __init__(self, state: Slots, priority: Callable[[Any], Priority] | None) -> None:
        self.state = state
        self._priority = priority

    def __repr__(self) -> str:
        return f"bulkhead({self.state.compartment.limit})"

    async def __call__(self, call: Call) -> Any:
        slots = self.state
        began = call.at
        if not slots.compartment.try_enter(began):
            priority = Priority.NORMAL if self._priority is None else self._priority(call.subject)
            began = call.at = await slots.acquire(priority)
        try:
            result = await self.next(call)
        except DROPPED:
            slots.release(began, dropped=True)
            raise
        except BaseException:
            if call.is_late():
                slots.release(began, dropped=True)
            else:
                slots.release()  # it says nothing about load
            raise
        slots.release(began)
        return result

    def statistics(self) -> dict[str, Any]:
        return self.state.statistics()


class LimiterLayer(Layer):
    """Lets so many calls through in a time; those past it wait, if the limiter is a :class:`Throttle`."""

    state: Limiter | Throttle

    def __init__(self, state: Limiter | Throttle) -> None:
        self.state = state
        self._throttle: Throttle | None = state if isinstance(state, Throttle) else None
        self._limiter: Limiter = state.limiter if isinstance(state, Throttle) else state

    def __repr__(self) -> str:
        return f"limiter({self.state!r})"

    async def __call__(self, call: Call) -> Any:
        if self._throttle is not None:
            await self._throttle.acquire()
        elif (wait := self._limiter.take(call.at)) > 0:
            refused = self._limiter.refusal(wait)
            raise Overloaded("limiter", refused.detail, retry_after=wait, reason=refused.reason)
        return await self.next(call)

    def statistics(self) -> dict[str, Any]:
        return self.state.statistics()
