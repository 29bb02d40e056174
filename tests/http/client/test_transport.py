"""Which connection a request goes over, and over how many."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from forebay.errors import UpstreamClosed
from forebay.http import Client, Limits, Timeouts
from forebay.http.client.trace import Step, Trace
from tests.http.client.kit import Peer, at_rest, in_time, nothing_left, playing, pool_of

pytestmark = pytest.mark.both_loops


async def test_kept_connections_that_die_while_all_are_in_use() -> None:
    """Each third one does, when it is asked again. Who finds that out gets its answer, though no new connection is to
    be had for it alone, and the others keep those that work."""
    answered: Counter[str] = Counter()
    made = 0

    async def dies(peer: Peer) -> None:
        nonlocal made
        made += 1
        left = 3 if made % 3 == 0 else 1000
        while (asked := await peer.asked()) is not None and left:
            left -= 1
            answered[asked.target] += 1
            await peer.answer()

    options: Any = {"limits": Limits(connections=3, per_target=3), "timeouts": Timeouts(pool=5), "proxy": ""}
    async with nothing_left(), playing(dies) as server, Client(server.url, **options) as client:

        async def ask(number: int) -> None:
            for turn in range(20):
                assert (await client.get(f"/{number}/{turn}")).status == 200

        with in_time(5.0):
            await asyncio.gather(*(ask(number) for number in range(25)))
        await at_rest(client)
        pool = pool_of(client)
        assert pool["replays"] > 0
        assert pool["dials"] <= 3 + pool["replays"] * 2, "connections that work were closed"
    assert set(answered.values()) == {1}


async def test_a_connection_that_ends_on_its_way_to_who_waits() -> None:
    """The server closes behind its answer, without a word: what waits for the connection, even POST, gets another."""

    async def once(peer: Peer) -> None:
        if await peer.asked() is not None:
            await peer.answer()

    limits = Limits(connections=1, per_target=1)
    async with nothing_left(), playing(once) as server, Client(server.url, limits=limits, proxy="") as client:
        responses = await asyncio.gather(*(client.post("/", content=b"x") for _ in range(20)), return_exceptions=True)
        failed = [one for one in responses if isinstance(one, BaseException)]
        assert all(isinstance(one, UpstreamClosed) for one in failed)
        assert len(failed) <= 5, "its end was there to be seen"
        await at_rest(client)


async def test_a_server_that_never_answers_twice() -> None:
    """A request is sent over a kept connection and a new one, and that is all: POST once."""
    asked: Counter[str] = Counter()

    async def once(peer: Peer) -> None:
        first = await peer.asked()
        assert first is not None
        asked[first.target] += 1
        if first.target == "/never":
            return
        await peer.answer()
        again = await peer.asked()
        if again is not None:
            asked[again.target] += 1

    async with nothing_left(), playing(once) as server, Client(server.url, proxy="") as client:
        for method, sent in (("GET", 2), ("POST", 1), ("PUT", 2)):
            await client.get("/first")
            trace = Trace()
            with pytest.raises(UpstreamClosed):
                await client.request(method, "/never", content=b"x" if method == "PUT" else None, trace=trace)
            assert asked.pop("/never") == sent
            steps = [event.step for event in trace.events]
            assert steps.count(Step.REPLAY) == sent - 1
            assert steps.count(Step.GOT_CONNECTION) == sent
            await at_rest(client)


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_turn(turns: int) -> None:
    """Of the way to an answer and through its content: nobody else gets what was meant for who is gone."""

    async def numbers(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            body = asked.target.encode() * 30_000
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            await asyncio.sleep(0)
            await peer.say(body)

    limits = Limits(connections=2, per_target=2, buffer=4096)
    options: Any = {"limits": limits, "timeouts": Timeouts(read=2, pool=2), "proxy": ""}
    async with nothing_left(), playing(numbers) as server, Client(server.url, **options) as client:

        async def ask(name: str) -> None:
            response = await client.get(f"/{name}")
            assert await response.read() == f"/{name}".encode() * 30_000

        for round_ in range(4):
            gone = [asyncio.ensure_future(ask(f"gone{number}")) for number in range(3)]
            stays = [asyncio.ensure_future(ask(f"stays{number}")) for number in range(2)]
            for _ in range(turns + round_ * 12):
                await asyncio.sleep(0)
            for task in gone:
                task.cancel()
            async with asyncio.timeout(5):
                await asyncio.gather(*stays)
                await asyncio.gather(*gone, return_exceptions=True)
            await at_rest(client)
