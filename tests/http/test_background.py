"""Work after the response: done, bounded, drained, and never lost without a word."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.executor import Executor
from forebay.errors import ExecutorStopped, Overloaded
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.background import BackgroundWork
from tests.support import eventually, raw_client, running

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@asynccontextmanager
async def working(**options: Any) -> AsyncIterator[BackgroundWork]:
    """Background work that takes work."""
    background = BackgroundWork("shop", **options)
    await background.start()
    try:
        yield background
    finally:
        await background.stop()


class Held:
    """Calls that last until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.done = 0

    async def call(self) -> None:
        self.begun += 1
        await self.go.wait()
        self.done += 1


def fails(reason: str) -> None:
    raise ValueError(reason)


async def fails_later(reason: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(reason)


@pytest.mark.both_loops
async def test_functions_of_both_kinds_are_called() -> None:
    """Coroutine functions on the loop, others in a thread; with what the request had in its context."""
    seen: dict[str, Any] = {}

    async def on_the_loop(place: str, *, key: str) -> None:
        seen[place] = (key, WHO.get(), threading.current_thread() is threading.main_thread())

    def in_a_thread(place: str, *, key: str) -> None:
        seen[place] = (key, WHO.get(), threading.current_thread() is threading.main_thread())

    class Callable:
        async def __call__(self, place: str, *, key: str) -> None:
            await on_the_loop(place, key=key)

    async with working() as background:
        WHO.set("bob")
        background.submit(on_the_loop, ("loop",), {"key": "k"})
        background.submit(in_a_thread, ("thread",), {"key": "k"})
        background.submit(partial(on_the_loop, "partial"), (), {"key": "k"})
        background.submit(Callable(), ("object",), {"key": "k"})
        background.submit(partial(Callable(), "partial of an object"), (), {"key": "k"})
        other = contextvars.Context()
        other.run(WHO.set, "alice")
        background.submit(on_the_loop, ("given",), {"key": "k"}, context=other)
        WHO.set("eve")
        await background.drain()
        assert seen == {
            "loop": ("k", "bob", True),
            "thread": ("k", "bob", False),
            "partial": ("k", "bob", True),
            "object": ("k", "bob", True),
            "partial of an object": ("k", "bob", True),
            "given": ("k", "alice", True),
        }
        assert background.statistics()["finished"] == 6
        assert len(background) == 0


@pytest.mark.parametrize("function", [fails, fails_later])
async def test_failures_are_logged_and_counted(function: Any) -> None:
    """With the function, where it stands, the request, and the error; what comes after is done all the same."""
    with capture_logs() as logs:
        async with working() as background:
            background.submit(function, ("no reason",), request_id="r-1")
            await background.drain()
            assert background.statistics()["failed"] == 1
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["app"]) == ("background work failed", "error", "shop")
    assert entry["work"].startswith(f"{function.__name__} ({__file__}:")
    assert entry["request"] == "r-1"
    assert repr(entry["exc_info"]) == "ValueError('no reason')"


async def test_generator_functions_are_told() -> None:
    """Nobody runs what they make, so nothing was done."""

    def generator() -> Any:
        yield

    async def both() -> Any:
        yield

    for function in (generator, both):
        with capture_logs() as logs:
            async with working() as background:
                background.submit(function)
                await background.drain()
                assert background.statistics()["failed"] == 1
        (entry,) = logs
        assert entry["event"] == "background work failed"
        assert "is a generator function" in str(entry["exc_info"])


async def test_work_that_cancels_itself_is_told() -> None:
    """It is not finished."""

    async def gives_up() -> None:
        raise asyncio.CancelledError

    with capture_logs() as logs:
        async with working() as background:
            background.submit(gives_up)
            await background.drain()
            assert background.statistics()["failed"] == 1
    assert [entry["event"] for entry in logs] == ["background work was cancelled"]


async def test_the_bound_is_felt_before_the_response() -> None:
    """A place that is reserved is there, whatever else is submitted meanwhile; past the bound, nobody gets one."""
    held = Held()
    async with working(concurrency=1, queue=2) as background:
        background.reserve()
        background.submit(held.call)
        background.submit(held.call)
        with capture_logs() as logs:
            for refused in (background.reserve, partial(background.submit, held.call)):
                with pytest.raises(Overloaded) as error:
                    refused()
                assert error.value.limit == "background"
        assert [entry["event"] for entry in logs] == ["background work refused"]
        background.submit(held.call, reserved=True)
        stats = background.statistics()
        assert (stats["running"], stats["queued"], stats["reserved"], stats["refused"]) == (1, 2, 0, 2)
        with pytest.raises(RuntimeError, match="no place is reserved"):
            background.submit(held.call, reserved=True)
        held.go.set()
        await eventually(lambda: held.done == 3 and not len(background))
        for _ in range(3):
            background.reserve()
        background.release()
        background.submit(held.call)
        assert background.statistics()["reserved"] == 2


async def test_never_more_at_once_than_said() -> None:
    """The others wait for their turn."""
    held = Held()
    async with working(concurrency=3, queue=20) as background:
        for _ in range(20):
            background.submit(held.call)
        await eventually(lambda: held.begun == 3)
        stats = background.statistics()
        assert (stats["running"], stats["queued"]) == (3, 17)
        assert stats["work"][0].startswith("Held.call (")
        assert "running=3/3 queued=17/20: Held.call (" in repr(background)
        held.go.set()
        await eventually(lambda: held.done == 20)


async def test_what_is_left_after_the_grace_is_cut_and_named() -> None:
    """What is done within it is done; what comes later is refused, and said."""
    held, quick = Held(), Held()
    quick.go.set()
    with capture_logs() as logs:
        async with working(concurrency=1, queue=10, grace=0.1) as background:
            background.submit(quick.call)
            background.submit(held.call, request_id="r-7")
            background.submit(quick.call)
            await background.drain()
            with pytest.raises(ExecutorStopped):
                background.submit(quick.call)
            await background.stop()
            assert (held.begun, held.done, quick.done) == (1, 0, 1)
            stats = background.statistics()
            assert (stats["finished"], stats["cut"], stats["refused"]) == (1, 2, 1)
            assert stats["running"] == stats["queued"] == len(background) == 0
    (cut,) = [entry for entry in logs if entry["event"] == "background work cut"]
    assert (cut["log_level"], cut["count"]) == ("error", 2)
    assert cut["work"][0].startswith("Held.call (")
    assert cut["work"][0].endswith(", of request r-7")
    (refused,) = [entry for entry in logs if entry["event"] == "background work refused"]
    assert refused["work"].startswith("Held.call (")


async def test_a_drain_waits_for_all_of_it() -> None:
    """Within the grace."""
    held = Held()
    async with working(concurrency=1) as background:
        background.submit(held.call)
        background.submit(held.call)
        draining = asyncio.create_task(background.drain())
        await eventually(lambda: "draining" in repr(background))
        held.go.set()
        await asyncio.wait_for(draining, 5)
        assert held.done == 2


async def test_it_may_be_started_again() -> None:
    """As the application may; what it has counted stays."""
    held = Held()
    held.go.set()
    async with working() as background:
        for count in (1, 2):
            background.submit(held.call)
            await background.drain()
            await background.stop()
            await background.start()
            assert background.statistics()["finished"] == count


async def test_its_metrics() -> None:
    """By what became of the work, and where it is."""
    async with working() as background:
        background.submit(fails, ("x",))
        background.reserve()
        await background.drain()
        ended, places = background.collect()
        assert {sample.labels[1][1]: sample.value for sample in ended.samples} == {
            "finished": 0,
            "failed": 1,
            "cut": 0,
            "refused": 0,
        }
        assert {sample.labels[1][1]: sample.value for sample in places.samples} == {
            "running": 0,
            "queued": 0,
            "reserved": 1,
        }


async def test_a_handler_that_finds_no_place_answers_503() -> None:
    """Nothing was promised then; and what has a place is done behind the answer."""
    held = Held()
    async with working(concurrency=1, queue=0) as background:
        app = App()

        @app.get("/order")
        async def order(request: Request) -> Response:
            background.reserve()
            background.submit(held.call, reserved=True)
            return Response("ordered")

        server = HTTPServer(app, bind="http://127.0.0.1:0")
        async with running(server), raw_client(server.addresses[0].port) as client:
            assert (await client.get("/order"))[2] == b"ordered"
            assert held.done == 0
            assert (await client.get("/order"))[0] == 503
            held.go.set()
            await eventually(lambda: not len(background))
            assert (await client.get("/order"))[2] == b"ordered"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concurrency": 0}, "concurrency 0: must be at least 1"),
        ({"queue": -1}, "queue -1: must be 0 or more"),
        ({"grace": -1}, "grace -1: must be 0 seconds or more"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=message):
        BackgroundWork("shop", **arguments)


def test_it_needs_no_machinery_of_its_own() -> None:
    """It is an executor that runs it."""
    assert isinstance(BackgroundWork("shop")._executor, Executor)
