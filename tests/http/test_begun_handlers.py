"""Coroutine handlers are begun where their request arrives. To them, and to whoever leaves, it makes no difference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Response
from tests.support import eventually, raw_client, running

pytestmark = pytest.mark.both_loops

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_it_keeps_its_task_and_its_context() -> None:
    """Over every wait, and nobody else's."""
    app = App()

    @app.get("/{name}")
    async def handler(name: str, waits: int = 0) -> list[str]:
        found = [variable.get()]
        variable.set(name)
        before = asyncio.current_task()
        for _ in range(waits):
            await asyncio.sleep(0)
            assert asyncio.current_task() is before
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001 * waits)
        return [*found, variable.get()]

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:

        async def ask(name: str, waits: int) -> None:
            async with raw_client(server.addresses[0].port) as client:
                for _ in range(5):
                    status, _, body = await client.get(f"/{name}?waits={waits}")
                    assert (status, body) == (200, f'["unset","{name}"]'.encode())

        await asyncio.gather(*(ask(f"n{number}", number % 3) for number in range(12)))


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Also when some wait and others do not."""
    app = App()

    @app.get("/{number:int}")
    async def handler(number: int) -> int:
        if number % 2:
            await asyncio.sleep(0.01)
        return number

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
        assert [(await client.response())[2] for _ in range(20)] == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("wait", [False, True])
async def test_whatever_it_raises_is_answered(wait: bool) -> None:
    """Errors that are meant, defects, and a cancellation of its own; before its first wait as behind it."""
    app = App()

    @app.get("/{what}")
    async def handler(what: str) -> str:
        if wait:
            await asyncio.sleep(0)
        if what == "missing":
            raise HTTPError(404, "there is no such thing")
        if what == "defect":
            raise LookupError("secret")
        if what == "cancelled":
            raise asyncio.CancelledError
        return "fine"

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        for what, expected in (("missing", 404), ("defect", 500), ("cancelled", 503), ("fine", 200)) * 2:
            status, _, body = await client.get(f"/{what}")
            assert (status, b"secret" in body) == (expected, False), what


async def test_who_leaves_cancels_it() -> None:
    """Where it waits, once, with its ``finally`` run to the end."""
    said: list[str] = []
    app = App()

    @app.get("/")
    async def handler() -> None:
        said.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            said.append("cancelled")
            raise

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        for _ in range(3):
            async with raw_client(server.addresses[0].port) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await eventually(lambda: said == ["begun"])
            await eventually(lambda: said == ["begun", "cancelled"])
            said.clear()


async def test_it_may_stream() -> None:
    """What it returns is sent as for any other handler."""
    app = App()

    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{number}"

    @app.get("/{waits:int}")
    async def handler(waits: int) -> Response:
        if waits:
            await asyncio.sleep(0)
        return Response(pieces())

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        for waits in (0, 1):
            assert (await client.get(f"/{waits}"))[2] == b"012"
