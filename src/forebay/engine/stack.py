"""Policies around a call, in one order: the doing half of ``forebay.policy``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, ParamSpec, TypeVar, overload

from forebay.engine.bulkheads import Slots
from forebay.engine.stack_call import Call, Layer, Nature, Next, invoke
from forebay.engine.stack_layers import (
    BreakerLayer,
    BulkheadLayer,
    FallbackLayer,
    HedgeLayer,
    LimiterLayer,
    RetryLayer,
    TimeoutLayer,
    failed_by_default,
)
from forebay.engine.throttle import Throttle
from forebay.policy.breaker import Breaker, Circuit, Circuits
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.fallback import Fallback, Fallbacks
from forebay.policy.hedge import Hedge, Hedger
from forebay.policy.limiters import Limiter
from forebay.policy.priority import Priority
from forebay.policy.retry import Retry

__all__ = ["Stack", "stack"]

P = ParamSpec("P")
T = TypeVar("T")
Req = TypeVar("Req")
Resp = TypeVar("Resp")


class Stack:
    """Policies around calls; made by :func:`stack`. It is one thing that is guarded: all calls through it share the
    budget, the breaker's window, the bulkhead's places and the limiter's rate.

    Used as a decorator, or as a middleware of any chain. Each layer that there is can be looked at and switched:
    ``stack.breaker.state.force("open", now())``, ``stack.timeout.enabled = False``; None: there is no such layer.
    """

    __slots__ = (
        "_chain",
        "_idempotent",
        "attempt_timeout",
        "breaker",
        "bulkhead",
        "fallback",
        "hedge",
        "limiter",
        "retry",
        "timeout",
    )

    def __init__(
        self,
        *,
        fallback: FallbackLayer | None,
        timeout: TimeoutLayer | None,
        retry: RetryLayer | None,
        hedge: HedgeLayer | None,
        breaker: BreakerLayer | None,
        attempt_timeout: TimeoutLayer | None,
        bulkhead: BulkheadLayer | None,
        limiter: LimiterLayer | None,
        idempotent: bool | None,
    ) -> None:
        self.fallback = fallback
        self.timeout = timeout
        self.retry = retry
        self.hedge = hedge
        self.breaker = breaker
        self.attempt_timeout = attempt_timeout
        self.bulkhead = bulkhead
        self.limiter = limiter
        self._idempotent = idempotent
        self._chain: Next = invoke
        for layer in reversed(self.layers):
            layer.next = self._chain
            self._chain = layer.__call__

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that there are, the outermost first."""
        every = (
            self.fallback,
            self.timeout,
            self.retry,
            self.hedge,
            self.breaker,
            self.attempt_timeout,
            self.bulkhead,
            self.limiter,
        )
        return tuple(layer for layer in every if layer is not None)

    def __repr__(self) -> str:
        return f"<stack {' > '.join(repr(layer) for layer in self.layers) or 'of nothing'}>"

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, request: Req, call_next: Callable[[Req], Awaitable[Resp]], /) -> Awaitable[Resp]: ...
    def __call__(self, subject: Any, call_next: Callable[[Any], Awaitable[Any]] | None = None, /) -> Any:
        """Decorate a coroutine function; or, as a middleware, handle a request."""
        if call_next is not None:
            if self.fallback is not None and self.fallback.needs_key:
                raise ValueError("stack: a fallback with last_good around requests needs key=, which says whose it is")
            method = getattr(subject, "method", "")
            return self._chain(Call(call_next, (subject,), {}, Nature(method, self._idempotent, "")))
        return self._decorate(subject)

    def _decorate(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        chain = self._chain
        nature = Nature("", self._idempotent, _first_parameter(function))

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            result: T = await chain(Call(function, args, kwargs, nature))
            return result

        return guarded

    def statistics(self) -> dict[str, Any]:
        """Those of every layer, by its name."""
        return {
            name: layer.statistics()
            for name in self.__slots__
            if not name.startswith("_") and (layer := getattr(self, name)) is not None
        }


def _first_parameter(function: Callable[..., Any]) -> str:
    """The name of the first parameter, by which it may be given; empty: there is none, or it is not known."""
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):  # of some that are written in C
        return ""


def stack(
    *,
    fallback: Fallback | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    hedge: Hedge | None = None,
    breaker: Breaker | Circuit | Circuits | None = None,
    attempt_timeout: float | None = None,
    bulkhead: Bulkhead | Slots | None = None,
    limiter: Limiter | Throttle | None = None,
    idempotent: bool | None = None,
    budget: RetryBudget | None = None,
    target: Callable[[Any], str] | None = None,
    key: Callable[[Any], Any] | None = None,
    priority: Callable[[Any], Priority] | None = None,
    failed: Callable[[Any], bool | None] = failed_by_default,
) -> Stack:
    """Put policies around a call::

        guard = stack(timeout=2.0, retry=Retry(), breaker=Breaker(), bulkhead=Bulkhead(limit=20))

        @guard
        async def price_of(item: str) -> int: ...

        app.middleware(guard)  # or around every request of an application

    There is one order, from the outside to the inside, whatever the order of the arguments; ``repr`` tells it:

    1. ``fallback`` answers for whatever the others raise.
    2. ``timeout`` bounds the call with all its tries and waits, and is the deadline of what is called.
    3. ``retry`` tries again, which is bounded by the time that is left, and by its budget.
    4. ``hedge`` sends a second try beside a slow first one, from the same budget.
    5. ``breaker`` sees every try: within the retries, so that it opens during them, and they end with it.
    6. ``attempt_timeout`` bounds each try, and counts against the target.
    7. ``bulkhead`` holds a place for each try that is under way.
    8. ``limiter`` comes last, so that what the others refuse costs none of its tokens.

    What is not given is not there, and costs nothing.

    :param timeout: seconds; past them ``DeadlineExceeded``.
    :param breaker: rules, or the state of a breaker that is shared with others.
    :param bulkhead: rules, or a bulkhead that is shared with others.
    :param limiter: without a :class:`Throttle` around it nobody waits: past it calls are refused with ``Overloaded``.
    :param idempotent: whether calls may be made twice, by a retry or a hedge. None: as the request's ``method`` says;
        where there is none, only what was certainly not processed is tried again.
    :param budget: of second tries, shared with others; by default one of ``retry``'s share.
    :param target: the name of whom a call is for, from the request, or the first argument: the breaker judges each by
        itself. None: they are all for the same.
    :param key: of the last good answers that the fallback keeps, from the same. None: the arguments of a decorated
        function; around requests there has to be one. Responses that stream, or set cookies, are not kept.
    :param priority: of a call that has to wait for a place, from the same; None: they are all alike.
    :param failed: whether a call failed, from its result or its exception, as far as the breaker is concerned; None: it
        says nothing. By default exceptions and statuses of 500 and more are failures, what never was sent is not.
    :raises ValueError: a number is out of its range.
    """
    for name, seconds in (("timeout", timeout), ("attempt_timeout", attempt_timeout)):
        if seconds is not None and not 0 < seconds < inf:
            raise ValueError(f"{name} {seconds}: must be above 0 seconds and finite, or None")
    if budget is None:
        if retry is not None:
            budget = retry.new_budget()
        elif hedge is not None:
            budget = RetryBudget()
    if isinstance(breaker, Breaker):
        breaker = Circuit(breaker) if target is None else Circuits(breaker)
    if isinstance(bulkhead, Bulkhead):
        bulkhead = Slots(bulkhead)
    return Stack(
        fallback=None if fallback is None else FallbackLayer(Fallbacks(fallback), key),
        timeout=None if timeout is None else TimeoutLayer(timeout, whole=True),
        retry=None if retry is None else RetryLayer(retry, budget),
        hedge=None if hedge is None else HedgeLayer(Hedger(hedge, budget), deposits=retry is None),
        breaker=None if breaker is None else BreakerLayer(breaker, target, failed),
        attempt_timeout=None if attempt_timeout is None else TimeoutLayer(attempt_timeout, whole=False),
        bulkhead=None if bulkhead is None else BulkheadLayer(bulkhead, priority),
        limiter=None if limiter is None else LimiterLayer(limiter),
        idempotent=idempotent,
    )
