"""The client's patience (``Request-Timeout-Ms``) and the route's timeout: both are the deadline of a handler's work."""

from __future__ import annotations

import asyncio
import time
from math import inf

import pytest

from forebay import App
from forebay.http import HTTPServer, Request, Response
from forebay.http.messages import Next
from forebay.http.middleware.timeout import Timeout
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
