"""Programs that forget their responses: each is reported with the line that made the request, and its connection is
reclaimed. ``FOREBAY_SOAK_ROUNDS=10000`` forgets so many."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay import App
from forebay.errors import ConnectionClosed
from forebay.http import HTTPServer
from forebay.http.client.client import Client
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from tests.http.client.kit import SOAK, at_rest, busy, nothing_left, pool_of, rounds
from tests.support import eventually

pytestmark = pytest.mark.timeout(60 + SOAK // 50)

HERE = "tests/http/client/test_leaks.py"
UNREAD = 0.2
LIMITS = Limits(connections=8, per_target=8, buffer=16384, unread=UNREAD)
LARGE = b"x" * (1 << 21)

app = App("site")


@app.get("/large")
def large() -> bytes:
    """More than anybody buffers."""
    return LARGE


@app.get("/small")
def small() -> str:
    """What is there with its head."""
    return "small"


@app.get("/endless")
async def endless() -> AsyncIterator[bytes]:
    """Without an end."""
    while True:
        yield b"y" * 8192
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are told relative to the working directory."""
    monkeypatch.chdir(Path(__file__).parents[3])


@asynccontextmanager
async def client_of(limits: Limits = LIMITS) -> AsyncIterator[Client]:
    """A client of the application; its pool is whole at the end, and all is gone."""
    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with nothing_left():
        await server.start()
        try:
            url = f"http://127.0.0.1:{server.addresses[0].port}"
            async with Client(url, limits=limits, timeouts=Timeouts(pool=5.0, read=5.0)) as client:
                yield client
                await at_rest(client)
        finally:
            await server.stop()


def line_of(function: Callable[..., Any], text: str) -> str:
    """``FILE:LINE in FUNCTION`` of the line of ``function`` that has ``text``."""
    lines, first = inspect.getsourcelines(function)
    (found,) = (first + number for number, line in enumerate(lines) if text in line and "line_of" not in line)
    return f"{HERE}:{found} in {function.__name__}"


# -- ways to forget


async def never_reads(client: Client) -> ClientResponse:
    """Take the head, keep the response, and do nothing with it."""
    return await client.get("/large")  # made here


async def drops(client: Client) -> None:
    """Take the head, and forget the response at once."""
    response = await client.get("/large")  # made here
    assert response.status == 200


async def reads_a_little(client: Client) -> tuple[ClientResponse, Any]:
    """Begin to take the content, keep all of it, and stop."""
    response = await client.get("/endless")  # made here
    pieces = response.stream()
    await anext(pieces)
    return response, pieces


async def by_a_helper(client: Client) -> ClientResponse:
    """What a program may have between itself and the client."""

    async def asked() -> ClientResponse:
        return await client.request("GET", "/large")  # made here

    return await asked()


async def middleware(request: Any, call_next: Any) -> Any:
    """Around a request; the line that it calls the next at is not who made the request."""
    return await call_next(request)


async def through_middleware(client: Client) -> ClientResponse:
    """With middleware between the program and the connection."""
    return await client.get("/large", middleware=[middleware])  # made here


KEEPERS: list[Callable[[Client], Awaitable[Any]]] = [never_reads, reads_a_little, through_middleware]


@pytest.mark.parametrize("keeper", KEEPERS)
async def test_what_is_kept_and_not_read(keeper: Callable[[Client], Awaitable[Any]]) -> None:
    """After ``Limits.unread`` it is told in the log, with the line; the connection is closed, and whoever comes back to
    the response is told so."""
    async with client_of() as client:
        with capture_logs() as logs:
            kept = await keeper(client)
            assert busy(client) == 1
            await eventually(lambda: busy(client) == 0, UNREAD + 2)
        (told,) = logs
        assert told["event"] == "response not read"
        assert told["at"] == line_of(keeper, "# made here")
        assert told["request"].startswith("GET http://127.0.0.1:")
        assert told["log_level"] == "warning"
        response, pieces = kept if isinstance(kept, tuple) else (kept, kept.stream())
        with pytest.raises(ConnectionClosed) as caught:
            async for _ in pieces:
                pass
        assert line_of(keeper, "# made here") in str(caught.value)
        assert response.status == 200


async def test_what_a_helper_made() -> None:
    """The line is that of the program which asked, and not the helper's caller."""
    async with client_of() as client:
        with capture_logs() as logs:
            kept = await by_a_helper(client)
            await eventually(lambda: busy(client) == 0, UNREAD + 2)
            kept.discard()
        (told,) = logs
        lines, first = inspect.getsourcelines(by_a_helper)
        (found,) = (first + number for number, line in enumerate(lines) if "# made here" in line)
        assert told["at"].startswith(f"{HERE}:{found} in asked")


async def test_what_is_dropped() -> None:
    """It is told when it is dropped, and not only later."""
    async with client_of(Limits(connections=8, per_target=8, buffer=16384)) as client:
        with capture_logs() as logs:
            await drops(client)
            gc.collect()
            await eventually(lambda: busy(client) == 0)
        (told,) = logs
        assert (told["event"], told["at"]) == ("response forgotten", line_of(drops, "# made here"))


async def test_a_stream_that_is_left() -> None:
    """Where nobody closes the response either, it is told; its connection is not lost meanwhile."""
    async with client_of() as client:
        with capture_logs() as logs:
            await abandons(client)
            await eventually(lambda: busy(client) == 0)
        (told,) = logs
        assert (told["event"], told["at"]) == ("response stream abandoned", line_of(abandons, "# made here"))


async def test_what_is_not_a_leak_is_not_told() -> None:
    """What was read, closed, left early or all there with its head is no reason to say anything."""
    async with client_of() as client:
        with capture_logs() as logs:
            for _ in range(3):
                await client.get("/small")
                await (await client.get("/large")).read()
                (await client.get("/large")).discard()
                await (await client.get("/endless")).close()
                async with client.get("/endless"):
                    pass
                async with client.get("/endless") as response:
                    async for _piece in response.stream():
                        break
                task = asyncio.create_task(never_reads(client))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
                gc.collect()
            await at_rest(client)
            await asyncio.sleep(UNREAD * 1.5)
        assert [entry["event"] for entry in logs] == []


async def test_a_slow_reader_is_none_who_forgets() -> None:
    """Who takes a piece now and then has all the time there is."""
    async with client_of() as client:
        with capture_logs() as logs:
            async with client.get("/endless") as response:
                taken = 0
                async for _ in response.stream():
                    taken += 1
                    await asyncio.sleep(UNREAD / 2)
                    if taken == 5:
                        break
        assert not logs


# -- very many


async def cancelled(client: Client) -> None:
    """Be cancelled at any moment."""
    task = asyncio.create_task(_all_of_it(client))
    await asyncio.sleep(random.random() * 0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _all_of_it(client: Client) -> None:
    await (await client.get("/large")).read()


async def abandons(client: Client) -> None:
    """Leave a stream in the middle, by the loop only."""
    async for _ in (await client.get("/endless")).stream():  # made here
        break


async def raises_inside(client: Client) -> None:
    """Fail while the response is open."""
    with suppress(ZeroDivisionError):
        async with client.get("/endless") as response:
            async for _ in response.stream():
                raise ZeroDivisionError


async def never_awaits_the_stream(client: Client) -> None:
    """Ask for the stream, and not for a piece."""
    (await client.get("/large")).stream()


async def is_kept_in_a_cycle(client: Client) -> None:
    """Be found by the garbage collector only."""
    kept: dict[str, Any] = {"response": await client.get("/large")}
    kept["itself"] = kept


WAYS: list[Callable[[Client], Coroutine[Any, Any, Any]]] = [
    drops,
    cancelled,
    abandons,
    raises_inside,
    never_awaits_the_stream,
    is_kept_in_a_cycle,
]


@pytest.mark.both_loops
async def test_the_pool_is_whole_after_very_many() -> None:
    """Responses forgotten in every way, many at once: the pool serves as before, and has lost no place."""
    total = rounds(500)
    limits = Limits(connections=8, per_target=8, buffer=16384, unread=2.0)
    async with client_of(limits) as client:
        with capture_logs() as logs:
            chosen = [WAYS[number % len(WAYS)] for number in range(total)]

            async def work() -> None:
                while chosen:
                    await chosen.pop()(client)

            await asyncio.gather(*(work() for _ in range(4)))
            kept = [await never_reads(client) for _ in range(3)]
            gc.collect()
            await eventually(lambda: busy(client) == 0, 5.0)
            assert len(kept) == 3
        told = {entry["event"] for entry in logs}
        assert told == {"response forgotten", "response not read", "response stream abandoned"}, told
        assert all(HERE in entry["at"] for entry in logs)
        assert len(logs) >= total // len(WAYS)
        answers = [await (await client.get("/small")).text() for _ in range(8)]
        assert answers == ["small"] * 8
        pool = pool_of(client)
        assert pool["in_use"] == pool["waiting"] == 0
        assert pool["total"] <= 8
        print(f"\n{total} rounds, {len(logs)} reported, {pool['dials']} connections, closed {pool['closed']}")
