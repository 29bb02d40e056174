"""The stack: one order of layers, what each does to a call, what counts for the breaker, and that nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from forebay import App
from forebay.engine.bulkheads import Slots
from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now
from forebay.engine.stack import Stack, stack
from forebay.engine.throttle import Throttle
from forebay.errors import (
    CircuitOpen,
    ConnectFailed,
    DeadlineExceeded,
    HTTPError,
    Overloaded,
    UpstreamClosed,
)
from forebay.http import Request, Response
from forebay.policy.adaptive import Adaptive
from forebay.policy.backoff import Backoff
from forebay.policy.breaker import Breaker, Circuit
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.deadline import deadline
from forebay.policy.fallback import Fallback
from forebay.policy.hedge import Hedge
from forebay.policy.limiters import TokenBucket
from forebay.policy.priority import Priority
from forebay.policy.retry import Retry
from forebay.testing import TestClient
from forebay.testing.virtual_clock import VirtualClock

AT_ONCE = Backoff(initial=0.001, cap=0.001, jitter="none")


def on_clock(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main`` on a virtual clock."""

    async def whole() -> None:
        await main()

    with VirtualClock(packages=(__name__,)) as clock:
        clock.run(whole())


class Server:
    """What is called: does what its script says, one entry for each call, the last one over and over.

    An exception is raised, a number is how many seconds the answer takes, anything else is the answer.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls = 0
        self.cancelled = 0
        self.running = 0
        self.most = 0
        self.lefts: list[float] = []

    async def __call__(self, *_: Any) -> Any:
        step = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.lefts.append(deadline.remaining())
        try:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
                return f"after {step:g}"
            return step
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def answer(status: int, **headers: str) -> SimpleNamespace:
    """A response, as far as the layers look at one."""
    return SimpleNamespace(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_order_is_one_and_told() -> None:
    """Whatever the order of the arguments; what is not given is not there."""
    whole = stack(
        limiter=TokenBucket(100, 10),
        bulkhead=Bulkhead(limit=7),
        attempt_timeout=0.5,
        breaker=Breaker(),
        hedge=Hedge(),
        retry=Retry(attempts=4),
        timeout=2,
        fallback=Fallback(value=1),
    )
    told = repr(whole)
    words = ["fallback", "timeout(2 s)", "retry(4 attempts)", "hedge(p95)", "breaker(50% of 20)"]
    words += ["attempt_timeout(0.5 s)", "bulkhead(7)", "limiter("]
    places = [told.index(word) for word in words]
    assert places == sorted(places)
    assert told.count(" > ") == 7
    assert repr(stack(timeout=1.5)) == "<stack timeout(1.5 s)>"
    assert repr(stack()) == "<stack of nothing>"
    assert set(whole.statistics()) == {
        "fallback", "timeout", "retry", "hedge", "breaker", "attempt_timeout", "bulkhead", "limiter",
    }  # fmt: skip


async def test_nothing_is_nothing() -> None:
    """A decorated function keeps its name, its arguments and its result."""

    @stack()
    async def price(item: str, *, times: int = 1) -> str:
        """Its words."""
        return item * times

    assert await price("ab", times=2) == "abab"
    assert (price.__name__, price.__doc__) == ("price", "Its words.")


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"attempt_timeout": 0.0}])
def test_bad_times(options: dict[str, float]) -> None:
    """They are named."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*: must be above 0 seconds"):
        stack(**options)  # type: ignore[arg-type]  # a wrong value is what is tested


def test_timeout_bounds_everything() -> None:
    """Tries, and the waits between them; the call knows its deadline, and the caller's counts where it is earlier."""

    async def main() -> None:
        server = Server(ConnectFailed("no"))
        guard = stack(
            timeout=2.0, retry=Retry(attempts=100, budget_share=None, backoff=Backoff(jitter="none", cap=1.0))
        )
        began = now()
        with pytest.raises((DeadlineExceeded, ConnectFailed)):
            await guard(server)()
        assert now() - began <= 2.01
        assert server.lefts[0] == pytest.approx(2.0)
        assert server.lefts[-1] < 1.0

        slow = Server(60.0)
        guard = stack(timeout=2.0)
        with pytest.raises(DeadlineExceeded, match="2 s"):
            await guard(slow)()
        assert slow.cancelled == 1
        assert guard.statistics()["timeout"] == {"enabled": True, "seconds": 2.0, "calls": 1, "exceeded": 1}
        began = now()
        with deadline(0.5), pytest.raises(DeadlineExceeded, match="of the caller"):
            await guard(slow)()
        assert now() - began == pytest.approx(0.5, abs=0.01)
        assert deadline.current() == inf
        assert guard.timeout is not None
        guard.timeout.enabled = False
        assert await guard(slow)() == "after 60"

    on_clock(main)


def test_attempts_have_a_time_of_their_own() -> None:
    """A try that is too slow is one that failed, and the next one may be faster."""

    async def main() -> None:
        server = Server(60.0, 0.1)
        guard = stack(
            timeout=10.0, attempt_timeout=1.0, retry=Retry(backoff=AT_ONCE), breaker=Breaker(), idempotent=True
        )
        began = now()
        assert await guard(server)() == "after 0.1"
        assert now() - began == pytest.approx(1.1, abs=0.01)
        assert (server.calls, server.cancelled) == (2, 1)
        assert guard.breaker is not None
        assert isinstance(guard.breaker.state, Circuit)
        found = guard.statistics()["breaker"]
        assert (found["succeeded"], found["failed"]) == (1, 1)

    on_clock(main)


async def test_what_is_tried_again() -> None:
    """What was certainly not processed; all the rest only if that does no harm. Answers by their status."""
    for error, idempotent, calls in [
        (ConnectFailed("no"), None, 3),
        (UpstreamClosed("gone"), None, 1),
        (UpstreamClosed("gone"), True, 3),
        (ConnectionResetError(), True, 3),
        (ConnectionResetError(), None, 1),
        (ValueError("a mistake"), True, 1),
        (HTTPError(404), True, 1),
    ]:
        server = Server(error)
        guard = stack(retry=Retry(backoff=AT_ONCE, budget_share=None), idempotent=idempotent)
        with pytest.raises(type(error)):
            await guard(server)()
        assert server.calls == calls, (error, idempotent)
    server = Server(answer(503), answer(200))
    guard = stack(retry=Retry(backoff=AT_ONCE, budget_share=None), idempotent=True)
    assert (await guard(server)()).status == 200
    server = Server(answer(503))
    assert (await guard(server)()).status == 503  # the last answer is given back, as it is
    assert server.calls == 3
    assert guard.statistics()["retry"]["verdicts"] == {"retry": 3, "attempts": 1}
    assert guard.retry is not None
    guard.retry.enabled = False
    server = Server(answer(503))
    assert (await guard(server)()).status == 503
    assert server.calls == 1


def test_an_answer_says_when_to_come_again() -> None:
    """``Retry-After`` of an answer, and of an error."""

    async def main() -> None:
        for first in (answer(503, retry_after="3"), Overloaded("limiter", "full", retry_after=3.0)):
            server = Server(first, answer(200))
            began = now()
            guard = stack(retry=Retry(backoff=AT_ONCE), idempotent=True)
            assert (await guard(server)()).status == 200
            assert 3.0 <= now() - began <= 3.1

    on_clock(main)


async def test_a_budget_bounds_the_tries() -> None:
    """Of all calls together; one that is shared is the same for several stacks."""
    server = Server(ConnectFailed("no"))
    budget = RetryBudget(0.1, min_per_second=0)
    guards = [stack(retry=Retry(attempts=5, backoff=AT_ONCE), budget=budget) for _ in range(2)]
    for number in range(100):
        with pytest.raises(ConnectFailed):
            await guards[number % 2](server)()
    assert 100 < server.calls <= 110


async def test_the_breaker_opens_and_says_so() -> None:
    """During the retries, which end with it; whom it was for is named."""
    server = Server(ConnectFailed("no"))
    guard = stack(breaker=Breaker(min_calls=4), retry=Retry(attempts=10, backoff=AT_ONCE, budget_share=None))
    with pytest.raises(CircuitOpen) as caught:
        await guard(server)()
    assert server.calls == 4
    assert caught.value.retry_after == pytest.approx(30, abs=1)
    assert guard.breaker is not None
    assert isinstance(guard.breaker.state, Circuit)
    guard.breaker.state.force("off", now())
    server.script = ["fine"]
    assert await guard(server)() == "fine"


async def test_each_target_has_its_own_circuit() -> None:
    """By the name that is made of the request."""

    async def call(host: str) -> str:
        if host == "bad":
            raise ConnectFailed("no")
        return host

    guard = stack(breaker=Breaker(min_calls=2), target=lambda host: host)
    guarded = guard(call)
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            await guarded("bad")
    with pytest.raises(CircuitOpen) as caught:
        await guarded("bad")
    assert caught.value.target == "bad"
    assert await guarded("good") == "good"


async def test_the_first_argument_may_be_given_by_its_name() -> None:
    """It is for the same target, and has the same key, however it is passed."""
    down = False
    guard = stack(
        fallback=Fallback(last_good=60), breaker=Breaker(min_calls=100), target=lambda item: item, key=lambda item: item
    )

    @guard
    async def price(item: str, currency: str = "EUR") -> str:
        if down:
            raise ConnectFailed("no")
        return f"{item} in {currency}"

    assert await price(item="a") == "a in EUR"
    assert await price(currency="USD", item="b") == "b in USD"
    down = True
    assert await price("a") == "a in EUR"
    assert await price(item="b") == "b in USD"
    with pytest.raises(ConnectFailed):
        await price(item="c")
    assert guard.statistics()["breaker"]["circuits"].keys() == {"a", "b", "c"}


class Unready:
    """An answer that has no status yet."""

    @property
    def status(self) -> int:
        raise RuntimeError("not ready")


@pytest.mark.parametrize("outcome", ["fine", ConnectFailed("no"), Unready()])
async def test_a_verdict_that_fails_counts_the_call_out(outcome: Any) -> None:
    """The error is told, and the circuit does not wait for this call."""

    def broken(_: Any) -> bool:
        raise LookupError("a mistake")

    guard = stack(breaker=Breaker()) if isinstance(outcome, Unready) else stack(breaker=Breaker(), failed=broken)
    with pytest.raises((LookupError, RuntimeError)):
        await guard(Server(outcome))()
    found = guard.statistics()["breaker"]
    assert (found["admitted"], found["undecided"]) == (1, 1)


@pytest.mark.parametrize("status", ["ready", ["ready"], {"phase": "Running"}, None])
async def test_what_is_no_status_of_http(status: Any) -> None:
    """Other things have a ``status``, too: such an answer is one, and none that is tried again."""
    result = SimpleNamespace(status=status)
    guard = stack(retry=Retry(), breaker=Breaker(), fallback=Fallback(last_good=60), idempotent=True)
    assert await guard(Server(result))() is result
    assert guard.statistics()["breaker"]["succeeded"] == 1


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (ConnectFailed("no"), 1),
        (ValueError("a mistake"), 1),
        (HTTPError(503), 1),
        (answer(500), 1),
        (HTTPError(404), 0),
        (answer(429), 0),
        ("fine", 0),
        (Overloaded("pool", "full"), None),
        (DeadlineExceeded("of the caller", inherited=True), None),
    ],
)
async def test_what_counts_for_the_breaker(outcome: Any, failures: int | None) -> None:
    """Errors and statuses of the server do; what was refused here, or ended with the caller's time, says nothing."""
    guard = stack(breaker=Breaker())
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)):
            await guard(Server(outcome))()
    else:
        assert await guard(Server(outcome))() is outcome
    found = guard.statistics()["breaker"]
    expected = (0, 0) if failures is None else (1 - failures, failures)
    assert (found["succeeded"], found["failed"]) == expected


def test_whose_time_it_was() -> None:
    """A call that its own timeout ends has failed; one whose caller left, or had no time, has not."""

    async def main() -> None:
        guard = stack(timeout=1.0, breaker=Breaker())
        with pytest.raises(DeadlineExceeded):
            await guard(Server(60.0))()
        assert guard.statistics()["breaker"]["failed"] == 1
        with deadline(0.5), pytest.raises(DeadlineExceeded):
            await guard(Server(60.0))()
        task = asyncio.create_task(guard(Server(60.0))())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = guard.statistics()["breaker"]
        assert (found["succeeded"], found["failed"]) == (0, 1)

    on_clock(main)


def test_whose_time_it_was_does_not_depend_on_whose_timer_is_first() -> None:
    """What is called may have looked at our deadline, and ended a moment before us: that is still our time."""

    async def inherits() -> None:
        async with fail_after(60):
            await asyncio.sleep(0.9999)
            raise DeadlineExceeded("a moment before", inherited=True)

    async def main() -> None:
        for options in ({"timeout": 1.0}, {"attempt_timeout": 1.0}, {"timeout": 1.0, "attempt_timeout": 5.0}):
            guard = stack(**options, breaker=Breaker())  # type: ignore[arg-type]  # they are floats
            with pytest.raises(DeadlineExceeded, match="within 1 s") as caught:
                await guard(inherits)()
            assert not caught.value.inherited
            found = guard.statistics()
            assert (found["breaker"]["failed"], found["breaker"]["undecided"]) == (1, 0)
            assert found["timeout" if "timeout" in options else "attempt_timeout"]["exceeded"] == 1
        guard = stack(attempt_timeout=1.0, retry=Retry(attempts=2, backoff=AT_ONCE), idempotent=True)
        with pytest.raises(DeadlineExceeded):
            await guard(inherits)()
        assert guard.statistics()["retry"]["verdicts"] == {"retry": 1, "attempts": 1}
        guard = stack(timeout=1.0, breaker=Breaker())
        with deadline(0.9999), pytest.raises(DeadlineExceeded) as caught:
            await guard(inherits)()
        assert caught.value.inherited
        assert guard.statistics()["breaker"]["undecided"] == 1

    on_clock(main)


@pytest.mark.parametrize(
    "options", [{"timeout": 1.0}, {"attempt_timeout": 1.0}, {"timeout": 1.0, "attempt_timeout": 5.0}]
)
def test_an_adaptive_bulkhead_learns_from_time_that_was_over(options: dict[str, float]) -> None:
    """Of the whole call, and of each try, also of one that is made beside another."""

    async def main() -> None:
        for hedge in (None, Hedge(initial_delay=0.5)):
            slots = Slots(Bulkhead(limit=Adaptive(initial=20)))
            guard = stack(bulkhead=slots, hedge=hedge, idempotent=True, **options)  # type: ignore[arg-type]  # of a table
            server = Server(60.0)
            for _ in range(60):
                await asyncio.gather(*(guard(server)() for _ in range(10)), return_exceptions=True)
            assert slots.compartment.limit < 20

    on_clock(main)


def test_the_bulkhead_bounds_calls_at_once() -> None:
    """Those past it wait, in time; the most urgent first; and those it has no room for are refused."""

    async def main() -> None:
        server = Server(1.0)
        guard = stack(
            bulkhead=Bulkhead(limit=2, max_waiting=2, max_wait=5), priority=lambda name: Priority(name.split()[0])
        )
        order: list[str] = []

        async def one(name: str) -> None:
            await guard(server)(name)
            order.append(name)

        tasks = [asyncio.create_task(one(f"normal {number}")) for number in range(2)]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(one(name)) for name in ("normal 2", "high 3")]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded):
            await one("normal 4")
        await asyncio.gather(*tasks)
        assert server.most == 2
        assert order[:2] == ["normal 0", "normal 1"]
        assert set(order[2:]) == {"high 3", "normal 2"}
        found = guard.statistics()["bulkhead"]
        assert (found["in_flight"], found["waiting"], found["admitted"]) == (0, 0, 4)

    on_clock(main)


def test_limiters_refuse_or_wait() -> None:
    """A bare one refuses, a throttle waits; what the layers around refuse takes no token."""

    async def main() -> None:
        server = Server("fine")
        guard = stack(limiter=TokenBucket(1, 2))
        for _ in range(2):
            await guard(server)()
        with pytest.raises(Overloaded) as caught:
            await guard(server)()
        assert caught.value.retry_after == pytest.approx(1.0, abs=0.01)
        guard = stack(limiter=Throttle(TokenBucket(1, 2), max_wait=5))
        began = now()
        for _ in range(4):
            await guard(server)()
        assert now() - began == pytest.approx(2.0, abs=0.01)

    on_clock(main)


async def test_fallbacks() -> None:
    """A value, what a function makes, the last good answer; for what failed, and not for a mistake."""
    down = Server(ConnectFailed("no"))
    assert await stack(fallback=Fallback(value="plain"))(down)() == "plain"
    assert await stack(fallback=Fallback(function=lambda error: f"sorry: {error}"))(down)() == "sorry: no"

    async def later(error: BaseException) -> str:
        await asyncio.sleep(0)
        return "later"

    assert await stack(fallback=Fallback(function=later))(down)() == "later"
    guard = stack(fallback=Fallback(last_good=60, value="nothing yet"), key=lambda name: name)
    server = Server(ConnectFailed("no"), "good", ConnectFailed("no"))
    call = guard(server)
    assert [await call("a"), await call("a"), await call("a"), await call("b")] == [
        "nothing yet", "good", "good", "nothing yet",
    ]  # fmt: skip
    assert guard.statistics()["fallback"]["substitutes"] == {"value": 2, "last-good": 1}
    with pytest.raises(ValueError, match="a mistake"):
        await stack(fallback=Fallback(value=1))(Server(ValueError("a mistake")))()
    with pytest.raises(ValueError, match="give a value"):
        Fallback()


def test_hedges() -> None:
    """A second try goes when the first is slow; the first answer wins, and the loser is cancelled and gone."""

    async def main() -> None:
        server = Server(60.0, 0.1)
        guard = stack(hedge=Hedge(initial_delay=1.0), idempotent=True)
        began = now()
        assert await guard(server)() == "after 0.1"
        assert now() - began == pytest.approx(1.1, abs=0.01)
        assert (server.calls, server.cancelled, server.running) == (2, 1, 0)
        found = guard.statistics()["hedge"]
        assert (found["sent"], found["won"]) == (1, 1)
        server = Server(60.0, ConnectFailed("the second"), 0.1)
        assert await guard(server)() == "after 60"  # one that fails leaves it to the other
        server = Server(ConnectFailed("at once"))
        with pytest.raises(ConnectFailed):
            await guard(server)()
        assert server.calls == 1
        server = Server(60.0)
        task = asyncio.create_task(guard(server)())
        await asyncio.sleep(2)
        assert server.running == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (server.running, server.cancelled) == (0, 2)
        careful = stack(hedge=Hedge(initial_delay=1.0))
        server = Server(5.0)
        await careful(server)()
        assert server.calls == 1  # it may not be done twice

    on_clock(main)


async def test_as_a_middleware_of_an_application() -> None:
    """Around every request: methods say what may be tried again, and its errors are answers."""
    app = App("guarded")
    guard: Stack = stack(retry=Retry(backoff=AT_ONCE, budget_share=None), breaker=Breaker(min_calls=3))
    app.middleware(guard)
    calls = {"GET": 0, "POST": 0}

    @app.get("/flaky")
    async def flaky() -> str:
        calls["GET"] += 1
        if calls["GET"] == 1:
            raise UpstreamClosed("the first one always")
        return "fine"

    @app.post("/order")
    async def order() -> str:
        calls["POST"] += 1
        raise UpstreamClosed("every one")

    async with TestClient(app, raise_errors=False) as client:
        assert (await client.get("/flaky")).status == 200
        assert calls["GET"] == 2
        assert (await client.post("/order")).status == 502
        assert calls["POST"] == 1
        assert (await client.post("/order")).status in (502, 503)
        for _ in range(3):
            response = await client.post("/order")
        assert response.status == 503
        assert int(response.headers["retry-after"]) in (29, 30)
        assert calls["POST"] <= 3


def test_nothing_is_left_of_calls_that_are_cancelled_anywhere() -> None:
    """At every moment of their life: places, tokens and probes come back, and no deadline stays behind."""

    async def main() -> None:
        slots = Slots(Bulkhead(limit=2, max_waiting=50, max_wait=3))
        guard = stack(
            fallback=Fallback(value="fallback"),
            timeout=4.0,
            retry=Retry(attempts=3),
            breaker=Breaker(),
            attempt_timeout=1.5,
            bulkhead=slots,
            limiter=Throttle(TokenBucket(20, 5), max_wait=2),
            idempotent=True,
        )
        server = Server(0.7)
        for number in range(400):
            task = asyncio.create_task(guard(server)())
            if number % 3:
                asyncio.get_running_loop().call_later((number % 23) / 11, task.cancel)
            if number % 5 == 0:
                await asyncio.sleep(0.3)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(1)
        found = guard.statistics()
        assert (found["bulkhead"]["in_flight"], found["bulkhead"]["waiting"], server.running) == (0, 0, 0)
        assert deadline.current() == inf
        assert await guard(Server("fine"))() in ("fine", "fallback")

    on_clock(main)


async def test_it_costs_little_beside_the_call() -> None:
    """Not a benchmark: an order of magnitude, so that nobody puts a timer or a task in the way unseen."""
    guard = stack(retry=Retry(), breaker=Breaker(), bulkhead=Bulkhead(limit=10), limiter=TokenBucket(1e9, 1000))
    call = guard(Server("fine"))
    began = time.perf_counter()
    for _ in range(2000):
        await call()
    assert time.perf_counter() - began < 2.0


async def test_each_layer_has_its_switch() -> None:
    """On the layer itself; what is switched off decides nothing."""
    guard = stack(
        fallback=Fallback(value="instead"),
        timeout=5,
        retry=Retry(backoff=AT_ONCE),
        hedge=Hedge(),
        breaker=Breaker(min_calls=1),
        attempt_timeout=5,
        bulkhead=Bulkhead(limit=1, max_waiting=0),
        limiter=TokenBucket(1, 1),
    )
    server = Server(ConnectFailed("no"))
    assert await guard(server)() == "instead"
    for layer in guard.layers:
        assert layer.enabled
        layer.enabled = False
        assert not layer.enabled
        assert not layer.statistics()["enabled"]
    for _ in range(3):
        with pytest.raises(ConnectFailed):
            await guard(server)()


async def test_the_last_good_answer_is_that_to_the_same_question() -> None:
    """By its arguments, where nothing else is said; around requests somebody has to say it."""
    guard = stack(fallback=Fallback(last_good=60))
    up = True

    @guard
    async def price(item: str, *, of: str = "shop") -> str:
        if not up:
            raise ConnectFailed("no")
        return f"{item} of {of}"

    await price("tea")
    await price("tea", of="market")
    up = False
    assert await price("tea") == "tea of shop"
    assert await price("tea", of="market") == "tea of market"
    with pytest.raises(ConnectFailed):
        await price("coffee")
    with pytest.raises(ValueError, match="needs key="):
        await guard(SimpleNamespace(method="GET"), Server("fine"))


async def test_what_is_kept_of_an_application() -> None:
    """Whole answers without cookies, each time with headers of their own."""
    app = App("kept")
    guard = stack(fallback=Fallback(last_good=60), key=lambda request: request.path)
    down = False

    @app.middleware
    async def hop(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.add("x-hop", "1")
        return response

    app.middleware(guard)

    def unless_down() -> None:
        if down:
            raise ConnectFailed("no")

    @app.get("/plain")
    async def plain() -> str:
        unless_down()
        return "plain"

    @app.get("/cookie")
    async def cookie() -> Response:
        unless_down()
        response = Response("yours")
        response.set_cookie("session", "secret")
        return response

    @app.get("/stream")
    async def stream() -> Any:
        unless_down()

        async def pieces() -> Any:
            yield b"piece"

        return Response(pieces())

    async with TestClient(app, raise_errors=False) as client:
        for path in ("/plain", "/cookie", "/stream"):
            assert (await client.get(path)).status == 200
        down = True
        for _ in range(3):
            response = await client.get("/plain")
            assert (response.status, response.text, response.headers.get_all("x-hop")) == (200, "plain", ["1"])
        assert (await client.get("/cookie")).status == 502
        assert (await client.get("/stream")).status == 502


async def test_refusals_have_their_reason() -> None:
    """A short word that never changes, for those who count them."""
    guard = stack(breaker=Breaker(min_calls=1))
    with pytest.raises(ConnectFailed):
        await guard(Server(ConnectFailed("no")))()
    with pytest.raises(CircuitOpen) as opened:
        await guard(Server("fine"))()
    assert opened.value.reason == "open"
    guard = stack(limiter=TokenBucket(1, 1))
    await guard(Server("fine"))()
    with pytest.raises(Overloaded) as limited:
        await guard(Server("fine"))()
    assert limited.value.reason == "rate"
