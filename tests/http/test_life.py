"""The lifespan and the dependencies of the application: entered and left by one Task, which is nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from structlog.testing import capture_logs

from forebay.http import App, HTTPServer
from forebay.http.binding import Depends
from forebay.testing import TestClient
from tests.support import eventually, raw_client

pytestmark = pytest.mark.both_loops

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_one_task_enters_and_leaves() -> None:
    """Whoever starts and stops the server: a task group may span both."""
    tasks: list[Any] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks.append(asyncio.current_task())
            running = group.create_task(asyncio.Event().wait())
            yield
            running.cancel()
            tasks.append(asyncio.current_task())

    async def dependency() -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        yield 1
        tasks.append(asyncio.current_task())

    app = App(lifespan=lifespan)

    @app.get("/")
    def handler(n: Annotated[int, Depends(dependency, scope="app")]) -> int:
        return n

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    for step in (server.start, server.drain, server.stop):
        await asyncio.create_task(step())
    assert len(tasks) == 4
    assert len(set(tasks)) == 1
    assert tasks[0].done()


async def test_a_group_that_fails_cancels_nobody_else() -> None:
    """It is logged, with its error; who has started the server goes on, and so does the server."""
    fails = asyncio.Event()

    async def in_background() -> None:
        await fails.wait()
        raise LookupError("in the background")

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(in_background())
            yield

    app = App(lifespan=lifespan)
    app.get("/")(lambda: "fine")
    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    with capture_logs() as logs:
        fails.set()
        await eventually(lambda: any(entry["log_level"] == "error" for entry in logs))
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["event"] == "lifespan ended while the application serves"
    assert isinstance(entry["exc_info"], ExceptionGroup)
    async with raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"fine"
    await server.drain()
    await server.stop()


async def test_a_start_that_fails_or_is_cancelled() -> None:
    """What was entered is left by then; it may be started again."""
    said: list[str] = []
    gate = asyncio.Event()
    fails = True

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        said.append("entered")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            said.append("left")

    async def dependency() -> int:
        if fails:
            raise LookupError("no such thing")
        await gate.wait()
        return 1

    app = App(lifespan=lifespan)

    @app.get("/")
    def handler(n: Annotated[int, Depends(dependency, scope="app")]) -> int:
        return n

    with pytest.raises(LookupError, match="no such thing"):
        await app.startup()
    assert said == ["entered", "left"]
    fails = False
    starting = asyncio.create_task(app.startup())
    await eventually(lambda: said == ["entered", "left", "entered"])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert said == ["entered", "left"] * 2
    gate.set()
    async with TestClient(app) as client:
        assert (await client.get("/")).text == "1"
    assert said == ["entered", "left"] * 3


async def test_what_fails_when_it_is_left() -> None:
    """Is raised where the application is stopped."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        raise LookupError("at the end")

    app = App(lifespan=lifespan)
    await app.startup()
    with pytest.raises(LookupError, match="at the end"):
        await app.shutdown()


async def test_a_stop_that_takes_too_long() -> None:
    """Its cancellation reaches what is being left."""
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("cancelled")
            raise

    app = App(lifespan=lifespan)
    await app.startup()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await app.shutdown()
    assert said == ["cancelled"]


async def test_context_variables() -> None:
    """What the lifespan sets, handlers see."""

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        variable.set("of the lifespan")
        yield

    app = App(lifespan=lifespan)

    @app.get("/")
    async def handler() -> str:
        return variable.get()

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    async with raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"of the lifespan"
    await server.drain()
    await server.stop()
