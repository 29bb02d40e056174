"""A client behind a network that does its worst: each fault is the right error within its timeout, at whatever moment
the request is cancelled besides; no connection that failed is used again, and nothing is left.

Each fault is met 60 times. ``FOREBAY_SOAK_ROUNDS=1000 .venv/bin/pytest -s tests/http/client/test_client_faults.py``
meets it a thousand times; ``-s`` shows what was measured.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from forebay import App
from forebay.errors import (
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    ForebayError,
    PoolExhausted,
    ReadTimeout,
    TLSTimeout,
    UpstreamClosed,
    UpstreamTimeout,
    WriteTimeout,
)
from forebay.http import HTTPServer, Request
from forebay.http.client.client import Client
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.trace import Step, Trace
from forebay.testing import FaultProxy
from tests.engine.connecting import server_tls
from tests.http.client.kit import LATE, SOAK, at_rest, nothing_left, pool_of, rounds, trusting
from tests.support import eventually

pytestmark = [pytest.mark.alone, pytest.mark.timeout(60 + SOAK // 2)]

AT_ONCE = 15
ROUNDS = rounds(60)
READ, WRITE, TLS, CONNECT, POOL, TOTAL = 0.3, 0.35, 0.45, 0.4, 1.5, 1.2
TIMEOUTS = Timeouts(connect=CONNECT, tls=TLS, pool=POOL, write=WRITE, read=READ, total=TOTAL)
LIMITS = Limits(connections=AT_ONCE, per_target=AT_ONCE, buffer=32768)
EARLY = 0.01
"""Seconds by which a timeout may be early, as the loop's clock is not ours."""

LARGE = 512 * 1024
PIECE = b"p" * 16384
PIECES = 12

T = TypeVar("T")

app = App("site")


@app.get("/small/{name}")
def small(name: str) -> str:
    """The name."""
    return name


@app.get("/large/{name}")
def large(name: str) -> bytes:
    """The name, and very much more."""
    return name.encode().ljust(LARGE, b"x")


@app.get("/pieces/{name}")
async def in_pieces(name: str) -> AsyncIterator[bytes]:
    """The same, little by little."""
    yield name.encode()
    for _ in range(PIECES):
        yield PIECE
        await asyncio.sleep(0.002)


@app.put("/upload/{name}")
@app.post("/upload/{name}")
async def upload(name: str, request: Request) -> str:
    """How much came."""
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return f"{name} {size}"


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Of the short answers, in which one wait follows the other."""

Op = Callable[[Client, str], Coroutine[Any, Any, None]]


async def get_small(client: Client, name: str) -> None:
    """A short answer."""
    response = await client.get(f"/small/{name}", trace=TRACE.get())
    assert (response.status, await response.text()) == (200, name)


async def get_large(client: Client, name: str) -> None:
    """A long one."""
    response = await client.get(f"/large/{name}")
    assert await response.read() == name.encode().ljust(LARGE, b"x")


async def get_pieces(client: Client, name: str) -> None:
    """One that comes in pieces."""
    size = 0
    first = b""
    async with client.get(f"/pieces/{name}") as response:
        async for piece in response.stream():
            if len(first) < len(name):  # the network may cut anywhere
                first += piece
            size += len(piece)
    assert first.startswith(name.encode())
    assert size == len(name) + PIECES * len(PIECE)


async def leave_pieces(client: Client, name: str) -> None:
    """One of which little is taken."""
    async with client.get(f"/pieces/{name}") as response:
        async for piece in response.stream():
            assert piece.startswith(name.encode()[: len(piece)])  # the network may cut anywhere
            break


async def put_large(client: Client, name: str) -> None:
    """Much content."""
    response = await client.put(f"/upload/{name}", content=bytes(LARGE))
    assert await response.text() == f"{name} {LARGE}"


async def post_pieces(client: Client, name: str) -> None:
    """Content that comes in pieces, and can be sent once."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            yield PIECE
            await asyncio.sleep(0)

    response = await client.post(f"/upload/{name}", content=pieces())
    assert await response.text() == f"{name} {PIECES * len(PIECE)}"


OPS: tuple[Op, ...] = (get_small, get_small, get_large, get_pieces, leave_pieces, put_large, post_pieces)


# -- cancellation


class CancelledAt(Awaitable[T]):
    """Awaits a coroutine in the current task, and cancels that task where the coroutine waits for the n-th time: at
    once, or only when what it waits for is there, which is when it is easily lost."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], number: int, *, when_done: bool) -> None:
        self.coroutine = coroutine
        self.number = number
        self.when_done = when_done
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        steps = self.coroutine.__await__()
        try:
            waiting = next(steps)
            while True:
                self.waits += 1
                if self.waits == self.number:
                    if self.when_done and isinstance(waiting, asyncio.Future):
                        waiting.add_done_callback(lambda _: task.cancel())
                    else:
                        task.cancel()
                try:
                    value = yield waiting
                except BaseException as error:
                    waiting = steps.throw(error)
                else:
                    waiting = steps.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result


# -- the stage


@dataclass
class Stage:
    """A server behind two fault proxies, plain and TLS, with a client for each, and what happened."""

    proxies: list[FaultProxy]
    clients: list[Client]
    ends: Counter[str] = field(default_factory=Counter)
    latest: float = 0.0
    lag: float = 0.0

    async def watch(self) -> None:
        """Note for how long the loop was busy with other things: nobody can be in time then."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            self.lag = max(self.lag, time.monotonic() - began - 0.005)


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """All of it; nothing is left at the end."""
    server = HTTPServer(app, bind=["http://127.0.0.1:0", "https://127.0.0.1:0"], tls=server_tls(reload_interval=3600))
    async with nothing_left():
        await server.start()
        try:
            plain, secure = (f"tcp://127.0.0.1:{address.port}" for address in server.addresses)
            async with FaultProxy(plain) as first, FaultProxy(secure) as second:
                options: dict[str, Any] = {"timeouts": TIMEOUTS, "limits": LIMITS, "tls": trusting()}
                urls = f"http://127.0.0.1:{first.address.port}", f"https://127.0.0.1:{second.address.port}"
                async with Client(urls[0], **options) as one, Client(urls[1], **options) as two:
                    stage = Stage([first, second], [one, two])
                    watching = asyncio.create_task(stage.watch())
                    try:
                        yield stage
                    finally:
                        watching.cancel()
                    for client in stage.clients:
                        await at_rest(client)
                await asyncio.sleep(0)
        finally:
            await server.stop()


# -- faults

Change = Callable[[FaultProxy], Any]
Errors = type[ForebayError] | None


@dataclass(frozen=True)
class Fault:
    """What the network does, and what may become of a request: an error, or, as None, the answer."""

    name: str
    change: Change
    ends: tuple[Errors, ...]
    during: Change | None = None  # done once requests are under way
    most: float = TOTAL


def settings(way: str, **faults: Any) -> Change:
    """Faults of ``up``, ``down`` or ``both`` directions."""

    def change(proxy: FaultProxy) -> None:
        (proxy if way == "both" else getattr(proxy, way)).set(**faults)

    return change


def whole(name: str, value: Any) -> Change:
    """A setting of the proxy as a whole."""
    return lambda proxy: setattr(proxy, name, value)


def nothing(proxy: FaultProxy) -> None:
    """All is well at first."""


SLOW = (None, ReadTimeout, WriteTimeout, TLSTimeout, DeadlineExceeded)
GONE = (None, UpstreamClosed, ConnectFailed)
SILENT = (ReadTimeout, WriteTimeout, TLSTimeout, DeadlineExceeded)

FAULTS = [
    *(
        one
        for way in ("up", "down", "both")
        for one in (
            Fault(f"a little latency {way}", settings(way, latency=0.01, jitter=0.02), (None,)),
            Fault(f"much latency {way}", settings(way, latency=2.0), SILENT),
            Fault(f"jitter {way}", settings(way, jitter=0.5), SLOW),
            Fault(f"little bandwidth {way}", settings(way, bandwidth=100_000), SLOW),
            Fault(f"slices {way}", settings(way, slice=1000), (None, DeadlineExceeded)),
            Fault(f"slices with pauses {way}", settings(way, slice=10, slice_pause=0.02), SLOW),
            Fault(f"a reset after a while {way}", settings(way, reset_after=0.02), GONE),
            Fault(f"a reset at once {way}", settings(way, reset_after=0.0), (UpstreamClosed, ConnectFailed)),
            Fault(f"no bytes {way}", settings(way, reset_after_bytes=0), GONE),
            Fault(f"few bytes {way}", settings(way, reset_after_bytes=200), GONE),
            Fault(f"some bytes {way}", settings(way, reset_after_bytes=20_000), GONE),
            Fault(f"silence and an end {way}", settings(way, timeout=0.1), (UpstreamClosed, ConnectFailed)),
            Fault(f"a black hole {way}", settings(way, black_hole=True), SILENT),
            Fault(f"a black hole for some {way}", settings(way, black_hole=True, share=0.5), (None, *SILENT)),
            Fault(f"a limit of few bytes {way}", settings(way, limit=150), GONE),
            Fault(f"a limit of some bytes {way}", settings(way, limit=30_000), GONE),
        )
    ),
    Fault("cut after few bytes", whole("cut_after", 300), GONE),
    Fault("cut after some bytes", whole("cut_after", 60_000), GONE),
    Fault("flapping", whole("flapping", (0.03, 0.03)), GONE),
    Fault("refused", lambda proxy: proxy.refuse(), (None, ConnectFailed)),
    Fault("reset while under way", nothing, GONE, lambda proxy: proxy.reset()),
    Fault("half closed while under way", nothing, GONE, lambda proxy: proxy.half_close()),
    Fault("a black hole while under way", nothing, (None, *SILENT), settings("both", black_hole=True)),
    Fault("bytes that stop while under way", nothing, (None, *SILENT), settings("down", black_hole=True)),
]

PART = {ReadTimeout: READ, WriteTimeout: WRITE, DeadlineExceeded: TOTAL}
"""Seconds before which these cannot be. Those of connections count from the dial, which may be somebody else's."""


async def one(stage: Stage, fault: Fault, client: Client, op: Op, number: int, chance: random.Random) -> bool:
    """One request, cancelled in half of the rounds. Whether it failed."""
    how = chance.choice(("", "", "", "wait", "done", "time"))
    trace = Trace()
    TRACE.set(trace)
    work = op(client, f"n{number}")
    began = time.monotonic()
    cancelled_at = began
    try:
        if how in ("wait", "done"):
            await CancelledAt(work, chance.randrange(1, 12), when_done=how == "done")
        elif how == "time":
            task = asyncio.ensure_future(work)
            await asyncio.wait({task}, timeout=chance.random() * 0.4)
            cancelled_at = time.monotonic()
            task.cancel()
            await task
        else:
            await work
    except asyncio.CancelledError:
        current = asyncio.current_task()
        assert current is not None
        current.uncancel()
        assert how, "nobody has cancelled it"
        if how == "time":
            late = time.monotonic() - cancelled_at
            assert late <= LATE + stage.lag, f"cancelled after {late:.3f} s"
        stage.ends["cancelled"] += 1
        return False
    except ForebayError as error:
        check_end(stage, fault, op, error, time.monotonic() - began, trace)
        return True
    else:
        stage.ends["answered"] += 1
        assert None in fault.ends, f"{getattr(op, '__name__', op)} was answered"
        return False
    finally:
        current = asyncio.current_task()
        while current is not None and current.cancelling():
            current.uncancel()


def check_end(stage: Stage, fault: Fault, op: Op, error: ForebayError, took: float, trace: Trace) -> None:
    """The error is one that the fault may be, and came in time."""
    stage.ends[type(error).__name__] += 1
    said = f"{error!r} after {took:.3f} s"
    assert isinstance(error, tuple(end for end in fault.ends if end is not None)), said
    assert took <= fault.most + LATE + stage.lag, said
    least = next((seconds for kind, seconds in PART.items() if isinstance(error, kind)), 0.0)
    assert took >= least - EARLY, said
    if isinstance(error, UpstreamTimeout | ConnectFailed | UpstreamClosed):
        assert error.target, f"it does not say who: {said}"
    if op is get_small and isinstance(error, ReadTimeout):
        at = {event.step: event.at for event in trace.events}
        heard = max(at.get(step, 0.0) for step in (Step.WROTE_HEADERS, Step.FIRST_BYTE, Step.HEAD))
        late = at[Step.FAILED] - heard - READ
        stage.latest = max(stage.latest, late)
        assert -EARLY <= late <= LATE + stage.lag, f"late by {late:.3f} s: {said}"
    elif isinstance(error, TLSTimeout) and not isinstance(error.__cause__, UpstreamClosed):
        stage.latest = max(stage.latest, took - TLS)
        assert took <= TLS + LATE + stage.lag, said


async def batch(stage: Stage, fault: Fault, start: int, which: int, chance: random.Random) -> None:
    """Some requests at once, on new connections and kept ones, while the network has the fault; and then without."""
    client, proxy = stage.clients[which], stage.proxies[which]
    if chance.random() < 0.5:
        await asyncio.gather(*(get_small(client, f"warm{number}") for number in range(AT_ONCE)))
    fault.change(proxy)
    tasks = [
        asyncio.create_task(one(stage, fault, client, chance.choice(OPS), start + number, chance))
        for number in range(AT_ONCE)
    ]
    if fault.during is not None:
        await asyncio.sleep(chance.random() * 0.02)
        made = fault.during(proxy)
        if asyncio.iscoroutine(made):
            await made
    failed = 0
    for task in tasks:
        try:
            failed += await task
        except BaseException as error:
            for other in tasks:
                other.cancel()
            await asyncio.wait(tasks)
            error.add_note(f"{fault.name}, {'https' if which else 'http'}, so far {dict(stage.ends)}")
            raise
    await at_rest(client)
    assert pool_of(client)["idle"] <= AT_ONCE - failed, "a connection that failed is kept"
    proxy.clear()
    await eventually(lambda: not proxy.held)  # what is under way keeps the latency that it began with
    with suppress(UpstreamClosed):  # of connections that the fault has ended when it was switched off, or half closed
        await get_small(client, "first")
    await asyncio.gather(*(get_small(client, f"after{number}") for number in range(5)))


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS])
async def test_a_fault(fault: Fault) -> None:
    """Over plain connections and TLS, with cancellation at any moment."""
    chance = random.Random(fault.name)
    async with staged() as stage:
        began = time.monotonic()
        for start in range(0, ROUNDS, 2 * AT_ONCE):
            stage.lag = 0.0
            await asyncio.gather(*(batch(stage, fault, start + which * AT_ONCE, which, chance) for which in range(2)))
        print(
            f"\n{fault.name}: {ROUNDS} rounds in {time.monotonic() - began:.1f} s: {dict(stage.ends)}, "
            f"a timeout was late by {stage.latest * 1000:.0f} ms at most, the loop by {stage.lag * 1000:.0f} ms"
        )


# -- cancellation at every wait there is


@pytest.mark.both_loops
@pytest.mark.parametrize("when_done", [False, True], ids=["while it waits", "when it has waited"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_cancellation_at_every_wait(kept: bool, secure: bool, when_done: bool) -> None:
    """Of every kind of request, on new and kept connections: it is cancelled, and nothing is held."""
    async with staged() as stage:
        client, proxy = stage.clients[secure], stage.proxies[secure]
        proxy.down.set(latency=0.001)
        for op in dict.fromkeys(OPS):
            cancelled = 0
            for number in range(1, 200):
                if kept:
                    await get_small(client, "warm")
                else:
                    await at_rest(client)  # who was cancelled has its connection dialled all the same
                    await proxy.reset()
                    while pool_of(client)["total"]:
                        await asyncio.sleep(0.001)
                trial = CancelledAt(op(client, f"n{number}"), number, when_done=when_done)
                task = asyncio.ensure_future(_awaited(trial))
                await asyncio.wait({task}, timeout=5)
                assert task.done(), f"{op}: it hangs when it is cancelled at wait {number}"
                assert task.cancelled() or task.exception() is None
                if trial.waits < number:
                    break
                cancelled += task.cancelled()
            else:
                pytest.fail(f"{op} waits without an end")
            assert cancelled >= 1
            await at_rest(client)
            await get_small(client, "after")


async def _awaited(what: Awaitable[T]) -> T:
    return await what


# -- what a proxy cannot do


@asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port where connections neither come about nor are refused: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        try:
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
            await asyncio.sleep(0.05)
            yield port
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connection_that_does_not_come_about(scheme: str) -> None:
    """It is given up in time, whoever waits for it."""
    async with nothing_left(), deaf_port() as port:
        url = f"{scheme}://127.0.0.1:{port}"
        async with Client(url, timeouts=TIMEOUTS, limits=LIMITS, tls=trusting()) as client:

            async def ask() -> None:
                began = time.monotonic()
                with pytest.raises(ConnectTimeout) as caught:
                    await client.get("/")
                assert type(caught.value) is ConnectTimeout
                assert "0.4" in str(caught.value)
                assert CONNECT - EARLY <= time.monotonic() - began <= CONNECT + LATE

            await asyncio.gather(*(ask() for _ in range(5)))
            await at_rest(client)


async def test_a_pool_that_is_all_held() -> None:
    """Who finds no connection free is told so in time, and who holds them all."""
    async with staged() as stage:
        stage.proxies[0].down.set(black_hole=True)
        limits = Limits(connections=2, per_target=2)
        timeouts = Timeouts(pool=0.2, read=1.0)
        url = f"http://127.0.0.1:{stage.proxies[0].address.port}"
        async with Client(url, limits=limits, timeouts=timeouts) as client:
            holding = [asyncio.create_task(get_small(client, str(number))) for number in range(2)]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            with pytest.raises(PoolExhausted) as caught:
                await client.get("/small/a")
            assert 0.2 - EARLY <= time.monotonic() - began <= 0.2 + LATE + stage.lag
            assert len(caught.value.holders) == 2
            assert all("test_client_faults.py:" in holder for holder in caught.value.holders), caught.value.holders
            for task in holding:
                task.cancel()
            await asyncio.wait(holding)
            await at_rest(client)
