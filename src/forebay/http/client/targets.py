"""A group of servers behind one base URL: which of them a request goes to, and what is learnt of what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from forebay.engine.deadlines import fail_after
from forebay.engine.health_checks import CheckTiming, HealthChecks, Unwell
from forebay.engine.loop import Cancelled, now
from forebay.engine.tasks import Gate, Tasks
from forebay.errors import CircuitOpen, ConnectFailed, DeadlineExceeded, NoTarget, Overloaded, ProxyFailed, RetryClass
from forebay.http.client.balancing import Balancing, HealthCheck
from forebay.http.client.circuits import circuits_of
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.failures import TOO_LATE, failure_reason
from forebay.http.client.request import ClientRequest
from forebay.http.client.resolver import ResolvedTarget, Resolver, StaticResolver
from forebay.http.client.resolver_updates import ResolverUpdates
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Timeouts
from forebay.http.client.trace import Step
from forebay.http.client.url import URL, parse_url
from forebay.http.headers import MutableHeaders
from forebay.policy.breaker import Breaker, Circuit, Circuits
from forebay.policy.health import ActiveHealth, PassiveHealth
from forebay.policy.outliers import Outliers
from forebay.policy.target import Target, TargetEvent, TargetState
from forebay.policy.targets import Targets
from forebay.policy.verdict import Refused

__all__ = ["Balanced", "Balancing", "HealthCheck", "Send", "ServerTarget"]

log = structlog.get_logger("forebay.client")

_FOR_POOL = 0.9  # of a check's time: so that it is known whether there was a connection for it
_EARLY = 0.002  # seconds by which timers may be early: they are in milliseconds

Send = Callable[[ClientRequest], Awaitable[ClientResponse]]
"""Sends a request to where its ``endpoint`` says, and gives the response once its head is there."""


class ServerTarget(Target):
    """One server of a group.

    :ivar endpoint: where connections to it lead.
    :ivar origin: what it calls itself.
    """

    __slots__ = ("endpoint", "origin")

    def __init__(self, resolved: ResolvedTarget, balancing: Balancing, health: HealthCheck | None) -> None:
        super().__init__(
            resolved.name,
            resolved.weight,
            zone=resolved.zone,
            backup=resolved.backup,
            passive=PassiveHealth(balancing.max_fails, balancing.fail_timeout),
            active=ActiveHealth(health.rise, health.fall) if health else None,
        )
        self.endpoint = endpoint = resolved.endpoint()
        self.origin = f"{endpoint.scheme}://{endpoint.authority}"


class Balanced:
    """Sends requests for the resolver's URL to one of its targets each, and any others to where they say.

    A request that comes again, with its ``tried`` of before, goes to a target that it was not at, as long as there is
    one.

    :param resolver: knows the targets.
    :param send: sends to the target that was picked. What it goes through is not this object's to start and stop.
    :param breaker: a circuit for each target: one that is open is passed over.
    :param health: whether targets are asked how they are, over ``send`` as well.
    :param on_event: is told of each change of a target's state. What it raises is logged.
    """

    __slots__ = (
        "_checks",
        "_circuits",
        "_health",
        "_known",
        "_on_event",
        "_send",
        "_tasks",
        "_updates",
        "balancing",
        "targets",
        "url",
    )

    def __init__(
        self,
        resolver: Resolver,
        send: Send,
        balancing: Balancing | None = None,
        *,
        breaker: Breaker | Circuits | None = None,
        health: HealthCheck | None = None,
        on_event: Callable[[TargetEvent], None] | None = None,
    ) -> None:
        self.url = parse_url(resolver.url)
        self.balancing = balancing = balancing or Balancing()
        self.targets: Targets[ServerTarget] = Targets(
            balancing.rules,
            name=self.url.origin,
            outliers=None if balancing.outliers is None else Outliers(balancing.outliers),
            on_event=self._changed,
        )
        self._send = send
        self._circuits = circuits_of(breaker)
        self._health = health
        self._checks: HealthChecks[ServerTarget] | None = None
        if health is not None:
            self._checks = HealthChecks(self._check, self._checked, CheckTiming(health.interval, health.timeout))
        self._on_event = on_event
        self._known = Gate()  # opens with the first set
        self._updates = ResolverUpdates(resolver, self._apply)
        self._tasks = Tasks()
        if isinstance(resolver, StaticResolver):  # known at once, so that no request has to wait
            self._join(resolver.targets)

    def __repr__(self) -> str:
        said = f"{self.balancing.rules.balance} of {len(self.targets)}"
        if self.balancing.outliers is not None:
            said += ", outliers"
        if self._health is not None:
            said += f", health {self._health.path}"
        if self._circuits is not None:
            said += f", breaker {self._circuits.rules.failure_rate:.0%} of {self._circuits.rules.min_calls}"
        return f"targets({said})"

    async def start(self) -> None:
        """Follow the resolver, and ask targets how they are. Returns before it is known which there are."""
        self._tasks.spawn(self._updates.run(), name=f"targets of {self.url.origin}")

    async def drain(self) -> None:
        """Ask and follow no more; what is on its way goes on."""
        await self.stop()

    async def stop(self) -> None:
        """Ask and follow no more. It may be started again."""
        await self._tasks.cancel()
        if self._checks is not None:
            await self._checks.cancel()

    # -- a request

    async def send(self, request: ClientRequest) -> ClientResponse:
        """Pick a target, send the request there, and take note of what comes of it. Where no connection comes about,
        nothing was sent, and it goes to the next one: that is no second try, which costs servers something, so neither
        a ``retry`` nor its budget has to allow it.

        :raises NoTarget: it is not known in time which targets there are.
        :raises CircuitOpen: the circuits of all of them are open.
        """
        if request.endpoint is not None or not request.url.same_origin(self.url):
            return await self._send(request)
        if not self._known.is_open:
            await self._first_set()
        while True:
            began = now()
            target, circuit = self._pick(request, began)
            try:
                return await self._send_to(target, circuit, request, began)
            except ConnectFailed as error:
                if error.retry is not RetryClass.SAFE or isinstance(error, ProxyFailed) or not self.another(request):
                    raise
                if request.trace is not None:
                    request.trace.mark(Step.RETRY, error=str(error))

    async def _send_to(
        self, target: ServerTarget, circuit: Circuit | None, request: ClientRequest, began: float
    ) -> ClientResponse:
        request.endpoint = target.endpoint
        request.tried.append(target.name)
        try:
            response = await self._send(request)
        except BaseException as error:
            self._broke(target, circuit, error, began, request.deadline)
            raise
        else:
            self._answered(target, circuit, response.status, began)
            response.when_failed(lambda error: self._broke_off(target, error))
            return response
        finally:
            request.endpoint = None  # whoever sends it again has another one picked
            self.targets.leave(target)

    async def _first_set(self) -> None:
        seconds = self.balancing.first_set
        limit = fail_after(seconds)
        try:
            async with limit:
                await self._known.wait()
        except DeadlineExceeded:
            if limit.inherited:
                raise
            why = self._updates.why or "the resolver has said nothing yet"
            raise NoTarget(
                f"no targets of {self.url.origin} within {seconds:g} s: {why}", target=self.url.origin
            ) from None

    def _pick(self, request: ClientRequest, at: float) -> tuple[ServerTarget, Circuit | None]:
        """A target that this request was not at, and whose circuit lets it through."""
        balancing, group = self.balancing, self.targets
        key = balancing.key(request) if balancing.key is not None else ""
        tried: list[ServerTarget] = []
        if request.tried:
            tried = [target for target in group.members if target.name in request.tried]
        refusals: dict[ServerTarget, Refused] = {}
        while True:
            try:
                target = group.pick(at, key, (*tried, *refusals))
            except NoTarget:
                if tried:  # it was at all of them: so it goes round again, if possible not to where it was last
                    tried = [target for target in tried if len(tried) > 1 and target.name == request.tried[-1]]
                    continue
                if refusals:
                    raise self._all_open(refusals) from None
                raise
            if self._circuits is None:
                return target, None
            circuit = self._circuits.of(target.name)
            refused = circuit.admit(at)
            if refused is None:
                return target, circuit
            group.leave(target)
            refusals[target] = refused

    def _all_open(self, refusals: dict[ServerTarget, Refused]) -> CircuitOpen:
        soonest = min(refusals.values(), key=lambda refused: refused.retry_after)
        said = f"all {len(refusals)} targets of {self.url.origin} are left alone, as {soonest.detail}"
        return CircuitOpen(said, target=self.url.origin, retry_after=soonest.retry_after or None, reason=soonest.reason)

    def _answered(self, target: ServerTarget, circuit: Circuit | None, status: int, began: float) -> None:
        at = now()
        failed = status in self.balancing.failed_statuses
        self.targets.answered(target, at - began, at, failed)
        if circuit is None:
            return
        if failed:
            circuit.failure(at - began, at)
        else:
            circuit.success(at - began, at)

    def _broke(
        self, target: ServerTarget, circuit: Circuit | None, error: BaseException, began: float, deadline: float
    ) -> None:
        at = now()
        seconds = at - began
        fault = failure_reason(error)
        cancelled = isinstance(error, Cancelled)
        if cancelled and at >= deadline - _EARLY:  # the request's own time is over, and not that of who waits for it
            fault = TOO_LATE
        if (fault is not None or cancelled) and self.targets.balancer.wants_latency and seconds > target.latency:
            # it would have taken at least as long: else a target whose slow answers nobody waits for would look fast
            target.observe(seconds, at)
        if fault is not None:
            self.targets.failed(target, fault, at, seconds)
        if circuit is None:
            return
        if fault is not None:
            circuit.failure(seconds, at)
        else:
            circuit.undecided(at, seconds)

    def _broke_off(self, target: ServerTarget, error: BaseException) -> None:
        """The content of an answer, whose head was fine, will not all come."""
        fault = failure_reason(error)
        if fault is not None:
            self.targets.failed(target, fault, now())

    def another(self, request: ClientRequest) -> bool:
        """Whether there is a target in use that ``request`` was not at."""
        tried = request.tried
        return any(target.reachable and target.name not in tried for target in self.targets.members)

    def named(self, url: URL) -> tuple[bool, Endpoint | None]:
        """Whether ``url`` is of a target, by the target's own name; and where that is, when no other has that name."""
        found = [target.endpoint for target in self.targets.members if target.origin == url.origin]
        return bool(found), found[0] if len(found) == 1 else None

    # -- who there is, and how they are

    def _apply(self, resolved: Iterable[ResolvedTarget]) -> None:
        self._join(resolved)
        if self._checks is not None:
            self._checks.update(self.targets.members)

    def _join(self, resolved: Iterable[ResolvedTarget]) -> None:
        made = [ServerTarget(target, self.balancing, self._health) for target in resolved]
        joined, left = self.targets.update(made, now())
        if self._known.is_open and (joined or left):
            log.info("targets changed", url=self.url.origin, joined=_names(joined), left=_names(left))
        self._known.open()

    async def _check(self, target: ServerTarget) -> None:
        health = self._health
        assert health is not None  # only then there are checks
        timeouts = Timeouts(pool=health.timeout * _FOR_POOL, total=health.timeout)
        url = parse_url(target.origin + health.path)
        request = ClientRequest(
            "GET", url, MutableHeaders(), timeouts=timeouts, deadline=now() + health.timeout, endpoint=target.endpoint
        )
        try:
            response = await self._send(request)
        except Overloaded:  # it is us who have no connection free, which says nothing: the target stays what it is
            if target.active.up:
                return
            raise
        status = response.status
        response.discard()
        if status >= 400:
            raise Unwell(f"status {status}")

    def _checked(self, target: ServerTarget, why: str, at: float) -> None:
        self.targets.checked(target, why, at)

    def _changed(self, event: TargetEvent) -> None:
        bad = event.after in (TargetState.DOWN, TargetState.EJECTED, "panic")
        say = log.warning if bad else log.info
        say("target", url=self.url.origin, target=event.target, before=event.before, after=event.after, why=event.why)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # of somebody else's code: the request that it was noticed by has nothing to do with it
            log.exception("target event could not be told", target=event.target)

    def statistics(self) -> dict[str, Any]:
        """``targets`` with their states and why, the ``resolver``; ``circuits`` and ``checks`` where there are any."""
        found: dict[str, Any] = {"resolver": self._updates.statistics(), "targets": self.targets.statistics()}
        if self._circuits is not None:
            found["circuits"] = self._circuits.statistics()
        if self._checks is not None:
            found["checks"] = self._checks.statistics()
        return found


def _names(targets: Iterable[Target]) -> list[str]:
    return [target.name for target in targets]
