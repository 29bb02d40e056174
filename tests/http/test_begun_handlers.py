"""Coroutine handlers are begun where their request arrives. To them, and to whoever leaves, it makes no difference."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Annotated, Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, RequestHook, Response
from forebay.http.binding import Depends, Header
from tests.support import eventually, raw_client, running

pytestmark = pytest.mark.both_loops

variable: ContextVar[Any] = ContextVar("variable", default="unset")


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


class Setting(RequestHook):
    """Sets the variable."""

    def before(self, request: Request) -> None:
        setting(request.headers.get("x-user"))


def setting(x_user: Annotated[str | None, Header()] = None) -> None:
    """Set the variable, if the request says to what."""
    if x_user is not None:
        variable.set(x_user)


async def setting_late(x_user: Annotated[str | None, Header()] = None) -> None:
    """The same."""
    setting(x_user)
    await asyncio.sleep(0)


@pytest.mark.parametrize("handler_is", ["plain", "coroutine", "waiting"])
@pytest.mark.parametrize("set_by", ["handler", "dependency", "coroutine", "hook"])
async def test_what_one_request_sets_the_next_does_not_see(handler_is: str, set_by: str) -> None:
    """Context variables are of one request, wherever they are set: the next one may be another user's."""
    app = App(middleware=[Setting()] if set_by == "hook" else [])
    sets: Any = {"dependency": setting, "coroutine": setting_late}.get(set_by, lambda: None)

    def plain(sets: Annotated[None, Depends(sets)], x_user: Annotated[str | None, Header()] = None) -> str:
        if set_by == "handler":
            setting(x_user)
        seen: str = variable.get()
        return seen

    async def coroutine(sets: Annotated[None, Depends(sets)], x_user: Annotated[str | None, Header()] = None) -> str:
        if handler_is == "waiting":
            await asyncio.sleep(0)
        return plain(None, x_user)

    app.get("/")(plain if handler_is == "plain" else coroutine)
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        for _ in range(3):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: ada\r\n\r\n")
            assert (await client.response())[2] == b"ada"
            assert (await client.get("/"))[2] == b"unset"


async def test_what_cancels_itself_and_then_waits() -> None:
    """Hears of it at that wait, in the task it was; the next request does not."""
    app = App()

    async def dependency() -> int:
        return 1

    @app.get("/{cancels:int}")
    async def handler(cancels: int, n: Annotated[int, Depends(dependency)]) -> str:
        task = asyncio.current_task()
        assert task is not None
        if cancels:
            task.cancel("itself")
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError as error:
            assert asyncio.current_task() is task
            task.uncancel()
            return str(error)
        return "not cancelled"

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        for _ in range(3):
            assert (await client.get("/1"))[2] == b"itself"
            assert (await client.get("/0"))[2] == b"not cancelled"


async def test_nothing_of_it_is_kept() -> None:
    """Neither what it has set in its context, nor its locals; without the collector."""
    app = App()
    kept: list[weakref.ref[Any]] = []

    class Thing:
        """Something to be forgotten."""

    async def dependency(waits: int) -> int:
        thing = Thing()
        kept.append(weakref.ref(thing))
        variable.set(thing)
        await asyncio.sleep(0) if waits else None
        return 1

    @app.get("/")
    async def handler(n: Annotated[int, Depends(dependency)]) -> int:
        return n

    gc.disable()
    try:
        async with (
            running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
            raw_client(server.addresses[0].port) as client,
        ):
            for waits in (0, 1, 0, 1):
                assert (await client.get(f"/?waits={waits}"))[0] == 200
                await eventually(lambda: not any(one() for one in kept))
    finally:
        gc.enable()


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
