"""Connections that the server has closed just when they are used again: idempotent requests never fail for that, and
others are never done twice. ``FOREBAY_SOAK_ROUNDS=50000`` makes so many requests."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from forebay.errors import UpstreamClosed
from forebay.http.client.client import Client
from forebay.http.client.settings import Limits, Timeouts
from tests.http.client.kit import SOAK, at_rest, nothing_left, pool_of, rounds
from tests.http.client.stale_server import stale_server

METHODS = ("GET", "PUT", "DELETE", "HEAD", "POST", "PATCH")
IDEMPOTENT = frozenset(("GET", "PUT", "DELETE", "HEAD"))
AT_ONCE = 24

pytestmark = [pytest.mark.both_loops, pytest.mark.timeout(60 + SOAK // 50)]


async def test_stale_connections() -> None:
    """A server that ends a third of its connections at random, in eight ways."""
    total = rounds(3000)
    failed: Counter[str] = Counter()
    done: Counter[str] = Counter()
    numbers = iter(range(total))
    chance = random.Random(7)

    async def work(client: Client) -> None:
        for number in numbers:
            method = METHODS[number % len(METHODS)]
            name = f"{method.lower()}-{number}"
            content = b"x" * chance.choice((0, 10, 30_000)) if method not in ("GET", "HEAD") else None
            try:
                response = await client.request(method, "/", headers={"x-id": name}, content=content)
                body = await response.text()
            except UpstreamClosed:
                assert method not in IDEMPOTENT, f"{method} failed"
                failed[method] += 1
            else:
                assert body == ("" if method == "HEAD" else name), "an answer to another request"
                done[name] += 1
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.004)  # in which connections are idle, and end

    limits = Limits(connections=AT_ONCE, per_target=AT_ONCE)
    async with nothing_left(), stale_server() as server:
        async with Client(server.url, limits=limits, timeouts=Timeouts(read=5.0, pool=5.0)) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work(client))
            await at_rest(client)
            pool = pool_of(client)
        twice = {
            name: count
            for name, count in server.executed.items()
            if count > 1 and name.partition("-")[0].upper() not in IDEMPOTENT
        }
        replayed = sum(count > 1 for count in server.executed.values())
        print(
            f"\n{total} requests, {server.accepted} connections, ends {dict(server.ends)}, failed {dict(failed)}, "
            f"done more than once {replayed}, pool closed {pool['closed']}"
        )
        assert not twice
        assert all(server.executed[name] >= 1 for name in done)
        assert sum(server.ends.values()) >= total // 12, "there was nothing to test"
        assert {"at once", "soon", "asked", "asked, reset", "half", "executed"} <= set(server.ends)
        assert replayed >= total // 500, "no idempotent request was done again"
        assert failed["POST"] + failed["PATCH"] < total // 12, "what is not idempotent fails more often than it must"


@pytest.mark.parametrize("how", ["asked", "asked, reset"])
async def test_one_stale_connection_after_the_other(how: str) -> None:
    """All connections that are kept have gone stale at once: the request that finds the first so does not go through
    all of them."""
    async with nothing_left(), stale_server(share=0.0) as server:
        limits = Limits(connections=8, per_target=8)
        async with Client(server.url, limits=limits, timeouts=Timeouts(read=5.0)) as client:

            async def ask(method: str, name: str) -> str:
                return await (await client.request(method, "/", headers={"x-id": name})).text()

            await asyncio.gather(*(ask("GET", f"get-{number}") for number in range(8)))
            kept = list(server.connections)
            assert len(kept) == 8
            for one in kept:
                one.end = how
            assert await ask("GET", "again") == "again"
            assert server.executed["again"] == 1
            for one in server.connections:
                one.end = how
            with pytest.raises(UpstreamClosed):
                await ask("POST", "never-again")
            assert server.executed["never-again"] == 0
            await at_rest(client)


async def test_what_was_closed_while_nobody_looked_is_not_used() -> None:
    """The end of an idle connection is seen when it comes, so even POST finds another."""
    async with nothing_left(), stale_server(share=0.0) as server, Client(server.url) as client:
        for number in range(20):
            for kept in server.connections:
                kept.transport.close()
            for _ in range(5):
                await asyncio.sleep(0.001)
            response = await client.post("/", headers={"x-id": f"post-{number}"}, content=b"a")
            assert await response.text() == f"post-{number}"
        assert server.accepted == 20
