"""The life of hosted applications: their start-up before listening, their end after the last answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import StartError
from forebay.http import HTTPServer
from forebay.http.asgi import ASGIApplication
from tests.support import raw_client, running

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

COMPLETE = {"type": "lifespan.startup.complete"}


class Site:
    """An application whose lifespan is the test's."""

    def __init__(self, lifespan: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.lifespan = lifespan
        self.log: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(scope["state"]).encode()})


def server_of(app: Any, **options: Any) -> HTTPServer:
    return HTTPServer(ASGIApplication(app, name="shop", **options), bind="http://127.0.0.1:0")


async def failure_of(app: Any, **options: Any) -> str:
    """Why a server of ``app`` does not start; it listens nowhere then."""
    server = server_of(app, **options)
    with pytest.raises(StartError) as caught:
        await server.start()
    assert server.addresses == []
    return str(caught.value)


async def test_start_and_end_with_a_state_that_requests_see() -> None:
    """Every request has its own copy; the end comes once, after the start, in the same task."""
    log: list[Any] = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        log.append(await receive())
        scope["state"]["db"] = 7
        await send(COMPLETE)
        log.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})
        log.append("returned")

    server = server_of(Site(lifespan))
    async with running(server), raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"{'db': 7}"
        assert log == [{"type": "lifespan.startup"}]
        await client.close()
        await server.drain()
        assert log[1:] == [{"type": "lifespan.shutdown"}, "returned"]
    await server.stop()
    assert len(log) == 3


class Fatal(BaseException):
    """What few programs catch."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(4), "the application's startup failed: SystemExit: 4"),
        (asyncio.CancelledError(), "the application's startup failed: CancelledError"),
        (Fatal("no disk"), "the application's startup failed: Fatal: no disk"),
    ],
)
async def test_whatever_is_raised_in_a_start_is_its_failure(error: BaseException, said: str) -> None:
    """It is none without a lifespan, which would be served; nor does it end the process without a word."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise error

    assert said in await failure_of(Site(lifespan))


async def test_a_reason_need_not_be_text() -> None:
    """Applications pass on what they have caught."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": ConnectionError("no database")})

    assert (await failure_of(Site(lifespan))).endswith("startup failed: no database")


async def test_nothing_is_served_before_the_start_is_complete() -> None:
    """The server listens afterwards."""
    go = asyncio.Event()

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go.wait()
        await send(COMPLETE)

    server = server_of(Site(lifespan))
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.01)
    assert server.addresses == []
    go.set()
    await starting
    assert server.addresses
    await server.stop()


async def test_a_failure_that_the_application_tells_of() -> None:
    """Its last line is the reason; all of it is in the log. Frameworks raise afterwards as well."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        message = "Traceback (most recent call last):\n  File x\nConnectionError: no database\n"
        await send({"type": "lifespan.startup.failed", "message": message})
        raise ConnectionError("no database")

    with capture_logs() as logs:
        reason = await failure_of(Site(lifespan))
    assert reason == "shop: the application's startup failed: ConnectionError: no database"
    assert "File x" in logs[0]["reason"]


async def test_a_failure_without_words() -> None:
    """Is one as well."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    assert (await failure_of(Site(lifespan))).endswith("it gave no reason")


async def test_an_application_that_raises_in_its_start() -> None:
    """It has asked for the first message, so it has a lifespan: it is not taken for one without."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise KeyError("DATABASE_URL")

    with capture_logs() as logs:
        reason = await failure_of(Site(lifespan))
    assert reason == "shop: the application's startup failed: KeyError: 'DATABASE_URL'"
    assert isinstance(logs[0]["exc_info"], KeyError)


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("only http is known here")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 404})


@pytest.mark.parametrize("lifespan", [raises, returns, answers])
async def test_an_application_without_a_lifespan_is_served(lifespan: Any) -> None:
    """It raised before it asked for a message, returned, or takes every scope for a request."""
    with capture_logs() as logs:
        server = server_of(Site(lifespan))
        async with running(server), raw_client(server.addresses[0].port) as client:
            assert (await client.get("/"))[0] == 200
    assert [entry["log_level"] for entry in logs if entry["event"] == "application has no lifespan"] == ["info"]


async def test_a_lifespan_may_be_required_or_left_out() -> None:
    """``on`` and ``off``."""
    assert "required" in await failure_of(Site(raises), lifespan="on")
    called = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope)

    async with running(server_of(Site(lifespan), lifespan="off")):
        pass
    assert called == []
    with pytest.raises(ValueError, match="auto, on or off"):
        ASGIApplication(raises, lifespan="maybe")  # type: ignore[arg-type]


async def test_a_start_has_its_time() -> None:
    """Then it is cancelled."""
    ended = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    assert "took more than 0.05 s" in await failure_of(Site(lifespan), startup_timeout=0.05)
    assert ended == ["cancelled"]


async def test_an_end_has_its_time() -> None:
    """Then it is cancelled, and the server stops all the same."""
    ended = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with capture_logs() as logs:
        server = server_of(Site(lifespan), shutdown_timeout=0.05)
        await server.start()
        await asyncio.wait_for(server.stop(), 5)
    assert ended == ["cancelled"]
    assert "application shutdown took too long" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("step", ["start", "end"])
async def test_an_application_that_ignores_its_cancellation_is_left_behind(step: str) -> None:
    """With the place where it waits in the log. The start fails, the end comes, as soon as if it had heeded it."""
    go = asyncio.Event()
    ended = asyncio.Event()

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if step == "end":
            await send(COMPLETE)
            await receive()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    with capture_logs() as logs:
        server = server_of(Site(lifespan), startup_timeout=0.05, shutdown_timeout=0.05)
        async with asyncio.timeout(5):
            if step == "start":
                with pytest.raises(StartError, match=r"took more than 0.05 s"):
                    await server.start()
            else:
                await server.start()
                await server.stop()
    (entry,) = [entry for entry in logs if entry["event"] == "application ignores the end of its lifespan"]
    assert "test_asgi_lifespan.py:" in entry["place"]
    go.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_an_exit_in_the_end_ends_nothing_else() -> None:
    """It is logged, and the server stops."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        raise SystemExit(5)

    with capture_logs() as logs:
        async with running(server_of(Site(lifespan))):
            pass
    assert any(isinstance(entry.get("exc_info"), SystemExit) for entry in logs)


async def test_an_end_that_fails_is_logged() -> None:
    """With what the application says of it, or raises."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        if scope["state"].get("raise", True):
            raise LookupError("gone")

    async def telling(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the pool is broken"})

    with capture_logs() as logs:
        for each in (lifespan, telling):
            async with running(server_of(Site(each))):
                pass
    assert any(isinstance(entry.get("exc_info"), LookupError) for entry in logs)
    assert any(entry.get("reason") == "the pool is broken" for entry in logs)


async def test_the_application_ends_when_its_server_cannot_listen() -> None:
    """It had started."""
    log = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        log.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    async with running(server_of(Site(returns))) as taken:
        server = HTTPServer(ASGIApplication(Site(lifespan)), bind=str(taken.addresses[0]))
        with pytest.raises(StartError):
            await server.start()
    assert log == ["lifespan.shutdown"]


async def test_messages_out_of_order_are_errors_of_the_application() -> None:
    """Which is told what it sent, and where it is."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    assert "lifespan.shutdown.complete was sent, but the application is starting" in await failure_of(Site(lifespan))
