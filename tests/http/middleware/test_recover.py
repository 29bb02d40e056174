"""Recover: faults become answers inside of the chain, as do expected errors; cancellation passes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.errors import HTTPError, Overloaded, UpstreamTimeout
from forebay.http import App, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware import Recover, RequestId
from tests.http.middleware.served import UPGRADE, serving
from tests.support import eventually


def faulty(*middleware: Any) -> App[Any]:
    """An application with a route for each way to fail, and a middleware around all that marks what it sees."""
    app: App[Any] = App("shop")

    @app.middleware
    async def marks(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = str(response.status)
        return response

    for layer in middleware:
        app.middleware(layer)

    @app.get("/fault/{number:int}")
    async def fault(number: int) -> str:
        raise KeyError("secret")

    @app.get("/plain")
    def plain() -> str:
        raise ValueError("secret")

    @app.get("/conflict")
    async def conflict() -> str:
        raise HTTPError(409, "taken")

    @app.get("/upstream")
    async def upstream() -> str:
        raise UpstreamTimeout("10.0.0.1 was silent")

    @app.get("/group")
    async def group() -> str:
        raise ExceptionGroup("several", [ValueError("secret"), KeyError("secret")])

    @app.get("/fine")
    async def fine() -> str:
        return "fine"

    return app


def errors(logged: Any) -> list[Any]:
    """What was logged as an error."""
    return [entry for entry in logged if entry["log_level"] == "error"]


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/fault/5", 500, "/fault/{number:int}"),
        ("/plain", 500, "/plain"),
        ("/upstream", 504, "/upstream"),
        ("/group", 500, "/group"),
    ],
)
async def test_a_fault_becomes_a_problem_where_it_stands(path: str, status: int, route: str) -> None:
    """Outer middleware sees the answer; it is logged once with app, route and request id; its text stays inside."""
    async with serving(faulty(RequestId(trust=True), Recover())) as client:
        with capture_logs() as logged:
            answer = await client.ask(path, ("x-request-id", "abc"))
        assert (answer.status, answer.headers["x-seen"], answer.headers["x-request-id"]) == (status, str(status), "abc")
        assert answer.headers["content-type"] == "application/problem+json"
        assert b"secret" not in answer.body
        assert b"10.0.0.1" not in answer.body
        (entry,) = errors(logged)
        assert (entry["event"], entry["app"], entry["method"]) == ("handler failed", "shop", "GET")
        assert (entry["route"], entry["request_id"]) == (route, "abc")
        assert isinstance(entry["exc_info"], Exception)
        assert (await client.ask("/fine")).body == b"fine"  # the connection lives on


async def test_without_it_outer_middleware_sees_no_answer() -> None:
    """What the middleware is for: the application's own 500 is outside of all middleware."""
    async with serving(faulty()) as client:
        with capture_logs():
            answer = await client.ask("/plain")
        assert (answer.status, "x-seen" in answer.headers) == (500, False)


async def test_expected_errors_are_answers_and_not_logged() -> None:
    """HTTPError of handlers and of middleware further in, Overloaded, 404 and 405."""

    async def refuses(request: Request, call_next: Next) -> Response:
        if "x-refuse" in request.headers:
            raise HTTPError(401, "who are you", headers=[("www-authenticate", "Basic")])
        if "x-full" in request.headers:
            raise Overloaded("jobs", "no room", retry_after=3)
        return await call_next(request)

    async with serving(faulty(Recover(), refuses)) as client:
        with capture_logs() as logged:
            assert (await client.ask("/conflict")).headers["x-seen"] == "409"
            answer = await client.ask("/fine", ("x-refuse", "1"))
            assert (answer.status, answer.headers["x-seen"]) == (401, "401")
            assert (answer.headers["www-authenticate"], answer.detail) == ("Basic", "who are you")
            answer = await client.ask("/fine", ("x-full", "1"))
            assert (answer.status, answer.headers["retry-after"], answer.headers["x-seen"]) == (503, "3", "503")
            assert (await client.ask("/nothing")).headers["x-seen"] == "404"
            assert (await client.ask("/fine", method="DELETE")).headers["x-seen"] == "405"
        assert errors(logged) == []


async def test_an_error_whose_headers_cannot_be_sent_is_a_500() -> None:
    """A response must not be split, nor the error's own words be lost silently."""

    async def splits(request: Request, call_next: Next) -> Response:
        raise HTTPError(400, "a", headers=[("x", "a\r\nset-cookie: b")])

    async with serving(faulty(Recover(), splits)) as client:
        with capture_logs() as logged:
            answer = await client.ask("/fine")
        assert (answer.status, "set-cookie" in answer.headers) == (500, False)
        assert [entry["event"] for entry in errors(logged)] == ["error cannot be sent"]


async def test_a_middleware_that_returns_nothing() -> None:
    """It is a fault like others, and says what came back."""

    async def forgets(request: Request, call_next: Next) -> Any:
        await call_next(request)

    async with serving(faulty(Recover(), forgets)) as client:
        with capture_logs() as logged:
            answer = await client.ask("/fine")
        assert (answer.status, answer.headers["x-seen"]) == (500, "500")
        assert "NoneType" in str(errors(logged)[0]["exc_info"])


async def test_the_hook() -> None:
    """Plain and coroutine functions; it may answer, or only look; its own failure costs nothing but a line."""
    seen: list[str] = []

    def looks(request: Request, error: Exception) -> None:
        seen.append(f"{request.route} {type(error).__name__}")

    async def answers(request: Request, error: Exception) -> Response | None:
        await asyncio.sleep(0)
        return Response("sorry", status=503) if isinstance(error, KeyError) else None

    def fails(request: Request, error: Exception) -> None:
        raise LookupError("secret")

    def wrong(request: Request, error: Exception) -> Any:
        return "text"

    async with serving(faulty(Recover(on_error=looks))) as client:
        with capture_logs():
            assert (await client.ask("/plain")).status == 500
            await client.ask("/conflict")
        assert seen == ["/plain ValueError"]
    async with serving(faulty(Recover(on_error=answers))) as client:
        with capture_logs() as logged:
            answer = await client.ask("/fault/1")
            assert (answer.status, answer.body, answer.headers["x-seen"]) == (503, b"sorry", "503")
            assert (await client.ask("/plain")).status == 500
        assert [entry["event"] for entry in errors(logged)] == ["handler failed", "handler failed"]
    for hook in (fails, wrong):
        async with serving(faulty(Recover(on_error=hook))) as client:
            with capture_logs() as logged:
                answer = await client.ask("/plain")
            assert (answer.status, b"secret" in answer.body) == (500, False)
            assert [entry["event"] for entry in errors(logged)] == ["handler failed", "on_error failed"]


async def test_cancellation_passes_through() -> None:
    """A handler whose client leaves is cancelled, and the hook hears nothing of it."""
    started, ended = asyncio.Event(), asyncio.Event()
    heard: list[Exception] = []
    app: App[Any] = App()
    app.middleware(Recover(on_error=lambda request, error: heard.append(error)))

    @app.get("/slow")
    async def slow() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "late"

    async with serving(app) as client:
        with capture_logs() as logged:
            await client.client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(started.wait(), 5)
            client.client.abort()
            await asyncio.wait_for(ended.wait(), 5)
        assert heard == []
        assert errors(logged) == []


async def test_what_is_raised_after_the_client_has_left_passes_through() -> None:
    """Reading content of a client that is gone fails; nobody is told twice, and no hook is asked."""
    started = asyncio.Event()
    outcome: list[BaseException] = []
    heard: list[Exception] = []
    app: App[Any] = App()

    @app.middleware
    async def watches(request: Request, call_next: Next) -> Response:
        started.set()
        try:
            return await call_next(request)
        except BaseException as error:
            outcome.append(error)
            raise

    app.middleware(Recover(on_error=lambda request, error: heard.append(error)))

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    async with serving(app) as client:
        await client.client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
        await asyncio.wait_for(started.wait(), 5)
        with capture_logs() as logged:
            client.client.abort()
            await eventually(lambda: outcome)
        assert heard == []
        assert errors(logged) == []


async def test_a_stream_that_fails_is_cut() -> None:
    """Its head is sent by then: the client notices by the missing end; it is logged once, by the application."""
    app: App[Any] = App(middleware=[Recover()])

    @app.get("/stream")
    async def stream() -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            raise ValueError("half way")

        return pieces()

    async with serving(app) as client:
        with capture_logs() as logged:
            await client.client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            assert not (await client.client.rest()).endswith(b"0\r\n\r\n")
        assert [entry["event"] for entry in errors(logged)] == ["handler failed"]


async def test_a_websocket_handshake_is_left_alone() -> None:
    """101 passes through, and the WebSocket works."""
    app: App[Any] = App(middleware=[Recover()])

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        await ws.send("hello")

    async with serving(app) as client:
        answer = await client.ask("/ws", *UPGRADE)
        assert answer.status == 101
        assert await client.client.exactly(7) == b"\x81\x05hello"


def test_misconfiguration() -> None:
    """A hook that cannot be called is refused at once."""
    hook: Any = "print"
    with pytest.raises(ValueError, match="on_error='print' must be a function"):
        Recover(on_error=hook)
