"""Readers that never read, under each policy for slow consumers, with the server in a process of its own: its memory
stays within the bound, what happens to them has its name, and others are answered as fast as without them.

The short version measures 3 x 0.2 s without and with eight such readers. For the long one, 3 x 5 s with forty of them:
``FOREBAY_SOAK_ROUNDS=1000 .venv/bin/pytest -s tests/engine/test_slow_consumers.py``; ``-s`` shows the numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from time import perf_counter
from typing import Any

import pytest

from tests.engine.conftest import ROOT
from tests.engine.connecting import client_of, deaf_client
from tests.support import RawClient

LONG = "FOREBAY_SOAK_ROUNDS" in os.environ
READERS, SECONDS = (40, 5.0) if LONG else (8, 0.2)
BATCH = 40 // READERS
"""Messages for each of them every 10 ms: 64 MB/s for all, which is work that is not there without them."""

SLICES = 3
STALL = SLICES * SECONDS + (8 if LONG else 2.5)
"""Seconds without reading after which a reader is cut: when the measurement is over."""

LIMIT = 2 * 1024 * 1024
MESSAGE = 16 * 1024
HIGH = 64 * 1024

FLOOR = 0.002 if LONG else 0.005
"""Seconds: a p99 below it counts as this much. A turn of another process on a busy machine takes about as long, and in
0.2 s one is enough to be the p99."""

FRAGMENTS = 1.25
"""Bytes of the process for each byte it keeps, at most: its allocator leaves gaps."""
BESIDE = 16 * 1024 * 1024
"""Bytes the process may grow by for everything else."""

pytestmark = pytest.mark.timeout(60 + 20 * SECONDS)


@asynccontextmanager
async def publisher(policy: str) -> AsyncIterator[int]:
    """The port of a new server process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engine.publisher", policy, str(LIMIT), str(STALL), str(BATCH),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while not (line := await asyncio.wait_for(process.stdout.readline(), 20)).strip().isdigit():
            assert line, "the server did not start"
        yield int(line)
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def measure(client: RawClient) -> dict[str, Any]:
    """What the server has measured since it was last asked."""
    await client.send(b"measure\n")
    found: dict[str, Any] = json.loads(await client.line())
    return found


async def p99(client: RawClient) -> float:
    """Of the time an answer takes: the median of three measurements."""
    found = []
    for _ in range(SLICES):
        times = []
        end = perf_counter() + SECONDS  # the loop's clock tells whole milliseconds
        while (begin := perf_counter()) < end:
            await client.send(b"0123456789\n")
            assert await client.line() == b"0123456789\n"
            times.append(perf_counter() - begin)
        times.sort()
        found.append(times[int(len(times) * 0.99)])
    return median(found)


async def never_read(port: int) -> None:
    """Subscribe, read nothing, and when cut for it begin anew, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        async with deaf_client(port) as sock:
            await loop.sock_sendall(sock, b"subscribe\n")
            poll = select.poll()
            poll.register(sock, 0)  # errors and hang-ups are always told
            while not poll.poll(0):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("policy", ["wait", "drop-oldest", "close"])
async def test_readers_that_never_read(policy: str) -> None:
    """The bound of one reader is its limit and one message, under ``wait`` the high watermark and one message; that of
    all together is theirs. Under every policy a reader that takes nothing at all is cut in the end."""
    bound = (HIGH if policy == "wait" else LIMIT) + MESSAGE
    async with publisher(policy) as port, client_of(port) as client, AsyncExitStack() as stack:
        await p99_warm_up(client)
        before = (await measure(client))["rss_now"]
        absent = await p99(client)
        readers = [asyncio.create_task(never_read(port)) for _ in range(READERS)]
        stack.push_async_callback(cancel, readers)
        deadline = asyncio.get_running_loop().time() + 20
        while not is_slow(policy, await measure(client), bound):
            assert asyncio.get_running_loop().time() < deadline, "the readers are not slow"
            await asyncio.sleep(0.02)
        present = await p99(client)
        found = await measure(client)
        grown = found["rss"] - before
        print(
            f"\n{policy}: {READERS} readers, p99 {absent * 1000:.2f} ms without, {present * 1000:.2f} ms with; "
            f"most kept for one {found['buffered']}, bound {bound}; rss grew by {grown / 2**20:.1f} MiB; "
            f"dropped {found['messages_dropped']}, closed {found['closed']}"
        )
        assert found["buffered"] <= bound
        assert grown <= READERS * bound * FRAGMENTS + BESIDE
        assert present <= 2 * max(absent, FLOOR)
        if policy == "close":
            assert found["closed"] == {"slow-consumer": found["closed"]["slow-consumer"]}
            return
        assert (found["messages_dropped"] > 0) == (policy == "drop-oldest")
        assert found["closed"] == {}
        deadline = asyncio.get_running_loop().time() + STALL + 3
        while (await measure(client))["closed"].get("write-stall", 0) < READERS:
            assert asyncio.get_running_loop().time() < deadline, "nobody is cut"
            await asyncio.sleep(0.1)


async def p99_warm_up(client: RawClient) -> None:
    """Have both ends run all that they will run."""
    for _ in range(500):
        await client.send(b"warm\n")
        await client.line()


def is_slow(policy: str, found: dict[str, Any], bound: int) -> bool:
    """Whether the server keeps as much for a reader as it will, or has begun to act on it."""
    match policy:
        case "wait":
            return bool(found["buffered"] > HIGH // 2)
        case "drop-oldest":
            return bool(found["messages_dropped"] > 100)
        case _:
            return bool(found["closed"].get("slow-consumer"))


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """End them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
