"""TestClient: what handlers raise is raised in the test. For an ``App``, by its hook ``on_error``."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay.errors import HTTPError, UpstreamClosed
from forebay.http import App, Exchange, Response
from forebay.testing import TestClient

pytestmark = pytest.mark.both_loops


def make_app() -> App[Any]:
    """Handlers that fail in every way."""
    app: App[Any] = App()

    @app.get("/sync")
    def sync() -> str:
        raise LookupError("sync")

    @app.get("/async")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        raise LookupError("async")

    @app.get("/expected")
    async def expected() -> str:
        raise HTTPError(418, "short and stout")

    @app.get("/late")
    async def late() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            for _ in range(20):  # turns of the loop, in which it leaves
                await asyncio.sleep(0)
            raise LookupError("late")

        return Response(pieces())

    @app.get("/fine")
    def fine() -> str:
        return "fine"

    return app


async def test_an_app_s_errors_are_raised() -> None:
    """With their traceback; errors that were meant are responses; the next request is not affected."""
    async with TestClient(make_app()) as client:
        for path in ("sync", "async"):
            with pytest.raises(LookupError, match=path) as caught:
                await client.get(f"/{path}")
            assert "test_client_errors.py" in "".join(traceback.format_tb(caught.value.__traceback__)[-1:])
            assert (await client.get("/fine")).text == "fine"
        assert (await client.get("/expected")).status == 418
        with pytest.raises(LookupError, match="late"):
            await client.get("/late")
        async with client.stream("GET", "/late") as response:
            pieces = response.stream()
            assert await anext(pieces) == b"first"
            with pytest.raises(LookupError, match="late"):
                await anext(pieces)
        results = await asyncio.gather(
            *(client.get(f"/{path}") for path in ("sync", "fine", "async", "fine")), return_exceptions=True
        )
        assert [str(one) if isinstance(one, LookupError) else one.text for one in results] == [  # type: ignore[union-attr]
            "sync", "fine", "async", "fine",
        ]  # fmt: skip


async def test_or_they_are_responses() -> None:
    """With ``raise_errors=False``: the 500, the broken stream, as any client sees them."""
    async with TestClient(make_app(), raise_errors=False) as client:
        assert (await client.get("/sync")).status == 500
        assert (await client.get("/async")).json()["title"] == "Internal Server Error"
        with pytest.raises(UpstreamClosed, match="after 5 bytes"):
            await client.get("/late")


async def test_the_hook_is_given_back() -> None:
    """One that was there is called as well, and is there again in the end."""
    heard: list[tuple[str, str]] = []
    app: Any = make_app()

    def own(error: Exception, exchange: Exchange) -> None:
        heard.append((str(error), exchange.method))

    app.on_error = own
    async with TestClient(app) as client:
        with pytest.raises(LookupError):
            await client.get("/sync")
    assert heard == [("sync", "GET")]
    assert app.on_error is own


async def test_an_application_s_errors_are_raised() -> None:
    """What ``on_request`` raises, where there is no hook."""

    class Failing:
        name = "failing"
        body_limit = None

        def on_request(self, exchange: Exchange) -> None:
            raise LookupError("on_request")

    async with TestClient(Failing()) as client:
        with pytest.raises(LookupError, match="on_request"):
            await client.get("/")
    async with TestClient(Failing(), raise_errors=False) as client:
        assert (await client.get("/")).status == 500


@pytest.mark.parametrize("root", ["", "/old"])
async def test_asgi_errors_are_raised(root: str) -> None:
    """Before the answer, within it, and on WebSockets; of an application that is served, and of one that is mounted."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        elif scope["path"].endswith("/late"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise LookupError(scope["path"])

    served: Any = asgi
    if root:
        served = App()
        served.mount(root, asgi)
    async with TestClient(served) as client:
        for path in ("/early", "/late"):
            with pytest.raises(LookupError, match=path):
                await client.get(root + path)
        with pytest.raises(LookupError, match="/ws"):
            async with client.websocket(root + "/ws") as ws:
                await ws.receive()
        with pytest.raises(LookupError, match="/ws"):
            async with client.websocket(root + "/ws"):
                pass
    async with TestClient(served, raise_errors=False) as client:
        assert (await client.get(root + "/early")).status == 500
        async with client.websocket(root + "/ws") as ws:
            assert await ws.wait_closed() == 1011
