"""A deadline, and the end of whoever waits for it, over real processes: a service, the gateway, another service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import RawClient, free_port, raw_client

FIRST = """
import asyncio, os
from forebay import App
from forebay.policy import deadline

app = App("first")

@app.get("/first")
async def first(hold: int = 0) -> dict:
    "Asks the last service through the gateway, as a client that knows of deadlines does."
    seen = deadline.remaining()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["GATEWAY"]))
    try:
        headers = "".join(f"{name}: {value}\\r\\n" for name, value in deadline.header())
        head = f"GET /last?hold={hold} HTTP/1.1\\r\\nhost: a\\r\\n{headers}"
        writer.write(f"{head}connection: close\\r\\n\\r\\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    return {"seen": seen, "status": int(head.split()[1]), "last": body.decode()}
"""

LAST = """
import asyncio, time
from forebay import App
from forebay.policy import deadline

app = App("last")
seen = {"begun": 0, "cancelled": 0, "lived": 0.0}

@app.get("/last")
async def last(hold: int = 0) -> dict:
    "What is left of the deadline; with hold it waits for its end."
    seen["begun"] += 1
    left, began = deadline.remaining(), time.monotonic()
    if hold:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            seen["lived"] = time.monotonic() - began
            raise
    return {"left": left if left != float("inf") else None}

@app.get("/seen")
async def what_was_seen() -> dict:
    return seen
"""


@asynccontextmanager
async def process(*arguments: str, port: int, folder: Path, **environment: str) -> AsyncIterator[None]:
    """``forebay ARGUMENTS`` in a process of its own, until it takes connections."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forebay", *arguments, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while True:
            assert child.returncode is None, f"forebay {arguments[0]} ended with {child.returncode}"
            try:
                (await RawClient.connect(port)).writer.close()
                break
            except OSError:
                assert time.monotonic() < until, f"forebay {arguments[0]} does not listen"
                await asyncio.sleep(0.05)
        yield
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 20) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@asynccontextmanager
async def hops(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """The ports of the first service and of the last, with the gateway in between."""
    first, gateway, last = free_port(), free_port(), free_port()
    (folder / "first.py").write_text(FIRST)
    (folder / "last.py").write_text(LAST)
    (folder / "gateway.toml").write_text(
        f'[system]\nadmin = "off"\n[gateway]\nbind = ["http://127.0.0.1:{gateway}"]\n'
        f'[upstreams.last]\ntargets = [{{ url = "http://127.0.0.1:{last}" }}]\n'
        '[[routes]]\nname = "last"\nmatch = { path = "/*" }\nupstream = "last"\ntimeout = "30s"\n'
    )
    async with AsyncExitStack() as stack:
        run = ("--bind", f"http://127.0.0.1:{last}")
        await stack.enter_async_context(process("run", "last:app", *run, port=last, folder=folder))
        await stack.enter_async_context(process("gateway", "gateway.toml", port=gateway, folder=folder))
        run = ("--bind", f"http://127.0.0.1:{first}")
        await stack.enter_async_context(
            process("run", "first:app", *run, port=first, folder=folder, GATEWAY=str(gateway))
        )
        yield first, last


async def seen_by(last: int) -> Any:
    """What the last service has seen."""
    async with raw_client(last) as client:
        return json.loads((await client.get("/seen"))[2])


async def cancelled_in(last: int, times: int) -> Any:
    """What the last service has seen, once so many of its handlers were cancelled."""
    until = time.monotonic() + 10
    while (seen := await seen_by(last))["cancelled"] < times:
        assert time.monotonic() < until, seen
        await asyncio.sleep(0.02)
    return seen


@pytest.mark.timeout(120)
async def test_over_two_hops(tmp_path: Path) -> None:
    """The last service sees what is left of the first caller's time; it is cancelled when that is over, and at once
    when the first caller leaves."""
    async with hops(tmp_path) as (first, last):
        async with raw_client(first) as client:
            status, _, body = await client.get("/first")
            assert status == 200
            found = json.loads(body)
            assert json.loads(found["last"])["left"] is None  # nobody has set one

            status, _, body = await client.get("/first", request_timeout_ms="3000")
            found = json.loads(body)
            left = json.loads(found["last"])["left"]
            assert 2.0 < found["seen"] <= 3.0
            assert 2.0 < left < found["seen"]  # rounded down to milliseconds on each of two hops

            began = time.monotonic()
            status, _, body = await client.get("/first?hold=1", request_timeout_ms="700")
            assert 504 in (status, json.loads(body)["status"])  # the gateway's 504 may be there first, to be told of
            assert 0.7 <= time.monotonic() - began < 2.5
            seen = await cancelled_in(last, 1)
            assert 0.4 < seen["lived"] < 2.5

        async with raw_client(first) as client:
            await client.send(b"GET /first?hold=1 HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 60000\r\n\r\n")
            until = time.monotonic() + 10
            while (await seen_by(last))["begun"] < 4:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            left_at = time.monotonic()
            client.abort()
            await cancelled_in(last, 2)
            assert time.monotonic() - left_at < 2.0
