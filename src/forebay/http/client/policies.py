"""The policies around each request of a client, in one order, down to the transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from forebay.engine.bulkheads import Slots
from forebay.engine.stack import Stack, stack
from forebay.engine.stack_call import Call, Nature, Next, invoke
from forebay.engine.stack_layers import asked_to_wait
from forebay.engine.throttle import Throttle
from forebay.http.client.balancing import Balancing, HealthCheck
from forebay.http.client.circuits import circuits_of
from forebay.http.client.failures import failure_reason
from forebay.http.client.request import ClientRequest
from forebay.http.client.resolver import Resolver
from forebay.http.client.response import ClientResponse
from forebay.http.client.targets import Balanced, Send
from forebay.http.client.trace import Step
from forebay.policy.breaker import Breaker, Circuits
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.hedge import Hedge
from forebay.policy.limiters import Limiter
from forebay.policy.retry import Retry
from forebay.policy.target import TargetEvent

__all__ = ["Policies"]


class Policies:
    """What is around each request, from the outside to the inside; ``repr`` tells it. What is not given is not there:

    1. ``retry`` tries again, on another target where there is one. The response that it replaces is let go of.
    2. ``hedge`` sends a second try beside a slow first one, to another target as well. The slower one is cancelled.
    3. ``bulkhead`` holds a place for each try that is under way.
    4. ``limiter`` spends a token on each.
    5. the **targets**, one of which is picked by what is known of them by then; what was waited for before does not
       count against it. With a ``breaker``, it is one whose circuit lets the request through. Without targets: the
       circuit of the URL's origin.
    6. ``attempt_timeout`` bounds each try, and counts against the target.

    Each try is a copy of the request, and the tries of one request share its ``tried``. A request whose content can be
    sent only once goes through all but the first two.

    :param transport: sends, at last.
    :param budget: of second tries, shared with others; None: one of ``retry``'s share for all of this client's.
    :param resolver: of the targets; None: requests go to where their URL says.
    :param balance: how one of the targets is chosen; its ``failed_statuses`` are failures for the breaker in any case.
    :raises ValueError: something is given that has no effect without something else, or is out of its range.
    """

    __slots__ = ("_each", "_once", "_repeats", "_whole", "inner", "outer", "send", "targets")

    def __init__(
        self,
        transport: Send,
        *,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        bulkhead: Bulkhead | Slots | None = None,
        limiter: Limiter | Throttle | None = None,
        breaker: Breaker | Circuits | None = None,
        attempt_timeout: float | None = None,
        budget: RetryBudget | None = None,
        resolver: Resolver | None = None,
        balance: Balancing | None = None,
        health: HealthCheck | None = None,
        on_target: Callable[[TargetEvent], None] | None = None,
    ) -> None:
        if resolver is None and health is not None:
            raise ValueError("health: there are no targets; give the client a list of URLs, or a resolver")
        if resolver is None and on_target is not None:
            raise ValueError("on_target: there are no targets; give the client a list of URLs, or a resolver")
        balance = balance or Balancing()
        self.outer: Stack = stack(retry=retry, hedge=hedge, bulkhead=bulkhead, limiter=limiter, budget=budget)
        self.inner: Stack = stack(
            breaker=circuits_of(breaker) if resolver is None else None,
            attempt_timeout=attempt_timeout,
            target=_origin,
            failed=_Judge(balance.failed_statuses),
        )
        send = _around(self.inner, transport)
        self.targets: Balanced | None = None
        if resolver is not None:
            self.targets = Balanced(resolver, send, balance, breaker=breaker, health=health, on_event=on_target)
            send = self.targets.send
        self.send: Send = send
        """Sends a request through all of it; the transport itself, when there is nothing."""
        if self.outer.layers:
            layers = self.outer.layers
            self._repeats = self.outer.retry is not None or self.outer.hedge is not None
            self._whole: Next = layers[0].__call__
            self._once: Next = next(
                (layer.__call__ for layer in layers if layer not in (self.outer.retry, self.outer.hedge)), invoke
            )
            if self.outer.retry is not None:
                self.outer.retry.retry_after = self._retry_after
            self._each: Send = send
            self.send = self._guarded

    def __repr__(self) -> str:
        said = [repr(layer) for layer in self.outer.layers]
        if self.targets is not None:
            said.append(repr(self.targets))
        said += [repr(layer) for layer in self.inner.layers]
        return " > ".join(said) or "no policies"

    def _guarded(self, request: ClientRequest) -> Awaitable[ClientResponse]:
        idempotent = request.idempotent
        if idempotent is None and request.headers.get("idempotency-key") is not None:
            idempotent = True  # whoever sends one says that the server looks at it
        nature = Nature(request.method, idempotent, "")
        if self._repeats and request.content.replayable:
            return self._whole(Call(_Tries(self._each), (request,), {}, nature, request.deadline))
        return self._once(Call(self._each, (request,), {}, nature, request.deadline))

    def _retry_after(self, response: ClientResponse) -> float | None:
        """Who asks to wait speaks for itself: another target is tried without."""
        if self.targets is not None and self.targets.another(response.request):
            return 0.0
        return asked_to_wait(response)

    async def start(self) -> None:
        """Find the targets, and watch how they are."""
        if self.targets is not None:
            await self.targets.start()

    async def drain(self) -> None:
        """Watch the targets no more; what is on its way goes on."""
        if self.targets is not None:
            await self.targets.drain()

    async def stop(self) -> None:
        """Watch the targets no more."""
        if self.targets is not None:
            await self.targets.stop()

    def statistics(self) -> dict[str, Any]:
        """Those of each policy there is, by its name, and of the targets."""
        found = {**self.outer.statistics(), **self.inner.statistics()}
        if self.targets is not None:
            found["targets"] = self.targets.statistics()
        return found


class _Tries:
    """The tries of one request."""

    __slots__ = ("_made", "_running", "_send", "_why")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._made = self._running = 0
        self._why: dict[str, Any] = {}  # there is to be another one

    async def __call__(self, request: ClientRequest) -> ClientResponse:
        self._made += 1
        trace = request.trace
        if self._made > 1 and trace is not None:
            if self._running:
                trace = trace.fork()
            trace.mark(Step.RETRY, attempt=self._made, **({"hedge": True} if self._running else self._why))
        attempt = request.copy(tried=request.tried, trace=trace)  # so that each goes elsewhere
        self._running += 1
        try:
            response = await self._send(attempt)
        except Exception as error:
            self._why = {"error": str(error)}
            raise
        finally:
            self._running -= 1
        self._why = {"status": response.status}
        return response


class _Judge:
    """Whether a try speaks against whom it was sent to: None: it says nothing."""

    __slots__ = ("_statuses",)

    def __init__(self, statuses: frozenset[int]) -> None:
        self._statuses = statuses

    def __call__(self, outcome: Any) -> bool | None:
        if isinstance(outcome, BaseException):
            return True if failure_reason(outcome) is not None else None
        return outcome.status in self._statuses


def _origin(request: ClientRequest) -> str:
    return request.url.origin


def _around(inner: Stack, send: Send) -> Send:
    """``send`` with the layers of ``inner`` around it; itself when there are none."""
    if not inner.layers:
        return send
    whole: Next = inner.layers[0].__call__

    def guarded(request: ClientRequest) -> Awaitable[ClientResponse]:
        return whole(Call(send, (request,), {}, Nature(request.method, None, ""), request.deadline))

    return guarded
