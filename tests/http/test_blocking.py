"""Functions that block run in threads: how many at once, what they see, and how they end."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextvars import ContextVar
from typing import Annotated, Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.binding import Depends, blocking
from forebay.testing import TestClient
from tests.support import eventually, raw_client, running

who: ContextVar[str] = ContextVar("who", default="nobody")


def in_thread() -> bool:
    """Are we somewhere else than on the loop?"""
    return threading.current_thread() is not threading.main_thread()


async def test_handlers_and_dependencies_in_threads() -> None:
    """Functions, methods and partials of them; the loop goes on meanwhile; what they raise is answered."""
    app = App()
    gate = threading.Event()

    @blocking
    def dependency(n: int) -> list[Any]:
        return [in_thread(), n]

    class Report:
        @blocking
        def method(self) -> bool:
            return in_thread()

    @blocking
    def partial_one(n: int, extra: int) -> list[Any]:
        return [in_thread(), n, extra]

    @app.get("/waits")
    @blocking
    def waits(of: Annotated[list[Any], Depends(dependency)]) -> list[Any]:
        return [in_thread(), gate.wait(5), of]

    @app.get("/free")
    def free() -> str:
        gate.set()
        return "free"

    @app.get("/denied")
    @blocking
    def denied() -> None:
        raise HTTPError(403, "no")

    @app.get("/fails")
    @blocking
    def fails() -> None:
        raise LookupError

    app.get("/method")(Report().method)
    app.get("/partial")(functools.partial(partial_one, extra=2))
    async with TestClient(app, raise_errors=False) as client:
        waiting = asyncio.ensure_future(client.get("/waits?n=7"))
        assert (await client.get("/free")).text == "free"
        assert (await waiting).json() == [True, True, [True, 7]]
        assert (await client.get("/method")).json() is True
        assert (await client.get("/partial?n=1")).json() == [True, 1, 2]
        assert (await client.get("/denied")).status == 403
        assert (await client.get("/fails")).status == 500


async def test_from_a_coroutine() -> None:
    """Whether or not some route is marked."""
    app = App()

    @app.get("/")
    async def handler() -> bool:
        found: bool = await app.run_blocking(in_thread)
        return found

    async with TestClient(app) as client:
        assert (await client.get("/")).json() is True


async def test_context_variables() -> None:
    """A thread sees those of its request, and what it sets is nobody else's."""
    app = App()

    async def sets(request: Request, call_next: Any) -> Response:
        who.set(request.path)
        response: Response = await call_next(request)
        response.headers["x-who"] = who.get()
        return response

    @app.get("/{name}", middleware=[sets])
    @blocking
    def handler(name: str) -> str:
        seen = who.get()
        who.set("thread")
        return seen

    async with TestClient(app) as client:
        answers = await asyncio.gather(*(client.get(f"/{number}") for number in range(20)))
    for number, response in enumerate(answers):
        assert (response.text, response.headers["x-who"]) == (f"/{number}", f"/{number}")
    assert who.get() == "nobody"


async def test_the_bound() -> None:
    """So many run, so many wait, and the next one is 503; then there is room again."""
    app = App(threads=2, threads_queue=1)
    gate, running_now = threading.Event(), threading.Semaphore(0)

    @app.get("/")
    @blocking
    def handler() -> str:
        running_now.release()
        gate.wait(5)
        return "done"

    async with TestClient(app) as client:
        first = [asyncio.ensure_future(client.get("/")) for _ in range(2)]
        await eventually(lambda: running_now._value == 2)
        third = asyncio.ensure_future(client.get("/"))
        await asyncio.sleep(0)
        refused = [asyncio.ensure_future(client.get("/")) for _ in range(3)]
        answers = await asyncio.gather(*refused)
        assert [answer.status for answer in answers] == [503, 503, 503]
        gate.set()
        assert [answer.text for answer in await asyncio.gather(*first, third)] == ["done"] * 3
        assert (await client.get("/")).text == "done"


async def test_a_client_that_leaves() -> None:
    """The thread goes on to its end, nobody waits for it, and the server answers others."""
    app = App(threads=1)
    began, gate, ended = threading.Event(), threading.Event(), threading.Event()

    @app.get("/")
    @blocking
    def handler() -> str:
        began.set()
        gate.wait(5)
        ended.set()
        return "done"

    app.get("/other")(lambda: "other")
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await eventually(began.is_set)
        await eventually(lambda: server.statistics()["in_flight"] == 0)
        async with raw_client(server.addresses[0].port) as client:
            assert (await client.get("/other"))[0] == 200
            assert not ended.is_set()
            gate.set()
            assert (await client.get("/"))[0] == 200
        assert ended.is_set()


def test_what_cannot_block() -> None:
    """Only plain functions; and the numbers of threads have bounds."""

    async def coroutine() -> None: ...

    def generator() -> Any:
        yield

    async def both() -> Any:
        yield

    for wrong in (coroutine, generator, both):
        with pytest.raises(TypeError, match=r"only plain functions run in a thread") as caught:
            blocking(wrong)
        assert f"{__file__}:{wrong.__code__.co_firstlineno}" in str(caught.value)
    for threads, queue in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            App(threads=threads, threads_queue=queue)


async def test_a_decorator_that_is_not_blocking_any_more() -> None:
    """``functools.wraps`` copies the mark; a coroutine function still is none for a thread."""
    app = App()

    @blocking
    def handler(n: int) -> list[Any]:
        return [in_thread(), n]

    @functools.wraps(handler)
    async def around(n: int) -> list[Any]:
        return [in_thread(), *handler(n)]

    app.get("/")(around)
    async with TestClient(app) as client:
        assert (await client.get("/?n=1")).json() == [False, False, 1]
