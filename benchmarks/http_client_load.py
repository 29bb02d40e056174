"""One client at work, in a process of its own: ``python -m benchmarks.http_client_load CLIENT WORK URL SECONDS``.

Prints what it cost as JSON. CLIENT is ``forebay``, ``aiohttp`` or ``httpx``, each as its makers recommend: one session
for all requests, connections kept, the response read to its end. All run on uvloop.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from benchmarks.processes import cpu_seconds
from forebay.engine import gather, run
from forebay.engine.loop import tune_allocator
from forebay.http import Client, Limits

__all__ = ["WORKS", "Load", "Work"]

MEBIBYTE = 1024 * 1024
CONTENT = os.urandom(MEBIBYTE)


class Work(msgspec.Struct, frozen=True):
    """What is asked for again and again.

    ``tasks`` at once, over at most ``connections``.
    """

    path: str
    size: int  # of the response's content
    sends: int
    tasks: int
    connections: int


WORKS = {
    "get": Work("/13", 13, 0, 64, 64),
    "download": Work(f"/{MEBIBYTE}", MEBIBYTE, 0, 8, 8),
    "upload": Work("/", len(str(MEBIBYTE)), MEBIBYTE, 8, 8),
    "crowd": Work("/13", 13, 0, 1000, 100),
}


class Load(msgspec.Struct, frozen=True):
    """What it cost."""

    requests: int
    cpu_us: float  # for each request
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


Once = Callable[[], Awaitable[int]]
"""Makes one request, and gives the length of its response."""


@asynccontextmanager
async def forebay(url: str, work: Work) -> AsyncIterator[Once]:
    """Ours."""
    limits = Limits(connections=work.connections, per_target=work.connections, waiting=work.tasks)
    async with Client(url, limits=limits, proxy="") as client:

        async def get() -> int:
            response = await client.get(work.path)
            return len(await response.read())

        async def post() -> int:
            response = await client.post(work.path, content=CONTENT)
            return len(await response.read())

        yield post if work.sends else get


@asynccontextmanager
async def aiohttp(url: str, work: Work) -> AsyncIterator[Once]:
    """See its documentation, "The aiohttp Request Lifecycle": one session, responses as context managers."""
    import aiohttp as library

    connector = library.TCPConnector(limit=work.connections)
    async with library.ClientSession(connector=connector) as session:

        async def get() -> int:
            async with session.get(url + work.path) as response:
                return len(await response.read())

        async def post() -> int:
            async with session.post(url + work.path, data=CONTENT) as response:
                return len(await response.read())

        yield post if work.sends else get


@asynccontextmanager
async def httpx(url: str, work: Work) -> AsyncIterator[Once]:
    """One client for all."""
    import httpx as library

    limits = library.Limits(max_connections=work.connections, max_keepalive_connections=work.connections)
    async with library.AsyncClient(base_url=url, limits=limits, timeout=60.0, trust_env=False) as client:

        async def get() -> int:
            return len((await client.get(work.path)).content)

        async def post() -> int:
            return len((await client.post(work.path, content=CONTENT)).content)

        yield post if work.sends else get


CLIENTS = {"forebay": forebay, "aiohttp": aiohttp, "httpx": httpx}


async def load(client: str, work: Work, url: str, seconds: float) -> Load:
    """Ask for ``seconds``, after as long as it takes for all tasks to have asked twice."""
    took: list[float] = []
    failed = 0

    async with CLIENTS[client](url, work) as once:

        async def several(until: float, least: int) -> None:
            nonlocal failed
            made = 0
            while made < least or time.monotonic() < until:
                made += 1
                began = time.perf_counter()
                if await once() != work.size:
                    failed += 1
                took.append(time.perf_counter() - began)

        await gather(*[several(0.0, 2) for _ in range(work.tasks)])
        took.clear()
        cpu, began = cpu_seconds(os.getpid()), time.monotonic()
        exact = time.process_time()
        await gather(*[several(began + seconds, 1) for _ in range(work.tasks)])
        passed = time.monotonic() - began
        used = max(cpu_seconds(os.getpid()) - cpu, time.process_time() - exact)
    took.sort()
    count = len(took)
    return Load(
        count, used / count * 1e6, count / passed, took[count // 2] * 1e3, took[int(count * 0.99)] * 1e3, failed
    )


if __name__ == "__main__":
    tune_allocator()
    found = run(load(sys.argv[1], WORKS[sys.argv[2]], sys.argv[3], float(sys.argv[4])))
    sys.stdout.buffer.write(msgspec.json.encode(found))
