"""The client's patience (``Request-Timeout-Ms``) and the route's timeout: both are the deadline of a handler's work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest

from forebay import App
from forebay.engine.loop import now
from forebay.http import ASGIApplication, HTTPServer, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware.timeout import Timeout
from forebay.http.websocket import WebSocket
from forebay.policy.deadline import deadline
from tests.support import RawClient, eventually, raw_client, running


def told(left: float) -> str:
    return "none" if left == inf else f"{left:.3f}"


class Site:
    """Handlers of every kind say what is left of their time."""

    def __init__(self) -> None:
        self.app = app = App("deadlines")
        self.cancelled = 0
        app.get("/sync")(self.sync)
        app.get("/async")(self.coroutine)
        app.post("/body")(self.body)
        app.get("/brief", timeout=0.3)(self.wait)
        app.get("/wait")(self.wait)
        app.get("/roomy", timeout=60)(self.coroutine)

    def sync(self) -> str:
        return told(deadline.remaining())

    async def coroutine(self) -> str:
        await asyncio.sleep(0)
        return told(deadline.remaining())

    async def body(self, request: Request) -> str:
        return f"{len(await request.body())} {told(deadline.remaining())}"

    async def wait(self) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "late"


async def answer(client: RawClient, path: str, value: str | None = None) -> str:
    headers = {} if value is None else {"request_timeout_ms": value}
    status, _, body = await client.get(path, **headers)
    assert status == 200
    return body.decode()


@pytest.mark.both_loops
@pytest.mark.parametrize("path", ["/sync", "/async"])
async def test_handlers_see_the_patience_of_the_client(path: str) -> None:
    """All kinds of them; and the next request of the connection, which says nothing, has none."""
    site = Site()
    async with (
        running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        for _ in range(3):
            assert 4.0 < float(await answer(client, path, "5000")) <= 5.0
            assert await answer(client, path) == "none"
        await client.send(b"POST /body HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 5000\r\ncontent-length: 3\r\n\r\nabc")
        status, _, body = await client.response()
        size, left = body.decode().split()
        assert (status, size) == (200, "3")
        assert 4.0 < float(left) <= 5.0


async def test_the_earlier_of_both_counts() -> None:
    """Of the route's time and the client's."""
    site = Site()
    async with (
        running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        assert 55 < float(await answer(client, "/roomy")) <= 60
        assert 55 < float(await answer(client, "/roomy", "99000")) <= 60
        assert 1 < float(await answer(client, "/roomy", "2000")) <= 2


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "12345678901", "5000, 1"])
async def test_what_is_no_time_says_nothing(value: str) -> None:
    """It is a hint of the client, and no reason to refuse a request."""
    site = Site()
    async with (
        running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        assert await answer(client, "/sync", value) == "none"
        assert 55 < float(await answer(client, "/roomy", value)) <= 60


@pytest.mark.both_loops
@pytest.mark.parametrize(("path", "value"), [("/wait", "300"), ("/brief", "9000"), ("/brief", None)])
async def test_past_it_there_is_504(path: str, value: str | None) -> None:
    """And the handler is cancelled."""
    site = Site()
    async with (
        running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        began = time.monotonic()
        status, _, _ = await client.get(path, **({} if value is None else {"request_timeout_ms": value}))
        assert status == 504
        assert 0.3 <= time.monotonic() - began < 2
        await eventually(lambda: site.cancelled == 1)
        assert await answer(client, "/sync") == "none"


async def test_the_time_begins_when_the_request_comes() -> None:
    """A request that waits for the answer to the one before it has less left, as its client has."""
    site = Site()

    @site.app.get("/held")
    async def held() -> str:
        await asyncio.sleep(0.3)
        return "held"

    async with (
        running(HTTPServer(site.app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(
            b"GET /held HTTP/1.1\r\nhost: a\r\n\r\nGET /sync HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 5000\r\n\r\n"
        )
        assert (await client.response())[2] == b"held"
        assert 4.0 < float((await client.response())[2]) <= 4.7


@pytest.mark.parametrize("path", ["/patient", "/limited"])
async def test_a_websocket_outlives_its_handshake(path: str) -> None:
    """What was said about the answer to its request says nothing about what is done for it afterwards."""
    app = App("sockets")

    async def talk(ws: WebSocket) -> None:
        await ws.send(told(deadline.remaining()))

    app.websocket("/patient")(talk)
    app.group("/limited", middleware=[Timeout(30.0)]).websocket("")(talk)
    patience = b"request-timeout-ms: 30000\r\n" if path != "/limited" else b""
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(
            b"GET %b HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n%b"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            % (path.encode(), patience)
        )
        assert (await client.response())[0] == 101
        assert await client.exactly(6) == b"\x81\x04none"


async def test_a_mounted_route_leaves_a_shorter_timeout_its_end() -> None:
    """``Timeout`` is over when there is a response, and a stream takes what it needs."""
    app, mounted = App("outer"), App("mounted")
    app.group("/limited", middleware=[Timeout(2.0)]).mount("/in", mounted)
    lefts: list[float] = []

    @mounted.get("/stream", timeout=60)
    async def stream(request: Request) -> AsyncIterator[str]:
        lefts.append(request.exchange.deadline - now())

        async def pieces() -> AsyncIterator[str]:
            yield "a"
            lefts.append(request.exchange.deadline - now())

        return pieces()

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        assert (await client.get("/limited/in/stream"))[2] == b"a"
    assert 1 < lefts[0] <= 2
    assert lefts[1] > 2


async def test_timeouts_of_middleware_are_deadlines() -> None:
    """They can only shorten the time, but for ``Timeout(None)``, which lifts it."""
    app = App("timeouts")

    @app.middleware
    async def seen(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["after"] = told(deadline.remaining())
        return response

    limited = app.group("/limited", middleware=[Timeout(2.0)])
    lifted = app.group("/lifted", middleware=[Timeout(None)])

    @limited.get("/x")
    async def limited_x() -> str:
        return told(deadline.remaining())

    @lifted.get("/x")
    async def lifted_x() -> str:
        return told(deadline.remaining())

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        status, headers, body = await client.get("/limited/x")
        assert (status, headers["after"]) == (200, "none")
        assert 1 < float(body) <= 2
        assert 0 < float(await answer(client, "/limited/x", "1000")) <= 1
        assert await answer(client, "/lifted/x") == "none"


async def test_work_after_the_response_has_its_own_time() -> None:
    """The client's patience was for the answer: it keeps no server from what it has to do after that."""
    app = App("after")
    seen: list[float] = []

    async def work() -> None:
        seen.append(deadline.remaining())

    @app.get("/")
    async def answer_first(request: Request) -> str:
        request.after(work)
        return "answered"

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as one,
    ):
        assert await answer(one, "/", "5000") == "answered"
        await eventually(lambda: seen == [inf])


@pytest.mark.both_loops
async def test_applications_of_others_keep_to_it() -> None:
    """504 in time, and the deadline is that of whatever the application does; the next request has none."""
    seen: list[float] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        seen.append(deadline.remaining())
        await asyncio.sleep(0.6 if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    hosted = ASGIApplication(application, lifespan="off")
    server = HTTPServer(hosted, bind="http://127.0.0.1:0")
    async with running(server), raw_client(server.addresses[0].port) as client:
        assert await answer(client, "/quick", "5000") == "done"
        assert await answer(client, "/quick") == "done"
        assert (await client.get("/slow", request_timeout_ms="100"))[0] == 504
    assert 4 < seen[0] <= 5
    assert seen[1] == inf
    assert 0 < seen[2] <= 0.1
