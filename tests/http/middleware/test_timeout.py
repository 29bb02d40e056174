"""Timeout: 504 and cancellation; several of them; streams, within the time and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine.loop import now
from forebay.http import App, FileResponse, Request, ServerTimeouts
from forebay.http.middleware import Timeout
from tests.http.middleware.served import UPGRADE, serving

SOON = 0.02


class Site(App[Any]):
    """Handlers that wait for ever, and some that say how much time they see."""

    def __init__(self, *layers: Timeout, file: Path | None = None) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.left: list[float] = []
        for layer in layers:
            self.middleware(layer)

        def look(request: Request) -> None:
            self.left.append(request.exchange.deadline - now())

        @self.get("/slow")
        async def slow() -> str:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
            return "late"

        @self.post("/reads")
        async def reads(request: Request) -> int:
            return len(await request.body())

        @self.get("/quick")
        async def quick(request: Request) -> str:
            look(request)
            return "a"

        @self.get("/stream")
        async def stream(request: Request) -> AsyncIterator[bytes]:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"a"
                look(request)
                yield b"b"

            return pieces()

        @self.get("/endless")
        async def endless() -> AsyncIterator[bytes]:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"a"
                try:
                    await asyncio.Event().wait()
                finally:
                    self.ended.set()

            return pieces()

        @self.get("/file")
        async def a_file() -> FileResponse:
            assert file is not None
            return FileResponse(file)

        @self.websocket("/ws")
        async def ws(ws: Any) -> None:
            await ws.send("hello")


async def test_a_late_handler() -> None:
    """504 as a problem document, the handler is cancelled, nothing is logged as a fault, the connection goes on."""
    app = Site(Timeout(SOON))
    async with serving(app) as client:
        with capture_logs() as logged:
            for _ in range(2):
                app.ended.clear()
                answer = await client.ask("/slow")
                assert (answer.status, answer.headers["content-type"]) == (504, "application/problem+json")
                await asyncio.wait_for(app.ended.wait(), 5)
            assert (await client.ask("/quick")).status == 200
        assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_a_client_that_does_not_send_its_content() -> None:
    """Reading is part of the time."""
    async with serving(Site(Timeout(SOON))) as client:
        await client.client.send(b"POST /reads HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
        assert (await client.client.response())[0] == 504


@pytest.mark.parametrize(
    ("layers", "least", "most"),
    [
        ([Timeout(30)], 20, 30),
        ([Timeout(30), Timeout(60)], 20, 30),
        ([Timeout(60), Timeout(30)], 20, 30),
        ([Timeout(30), Timeout(None)], inf, inf),
        ([Timeout(None), Timeout(30)], 20, 30),
    ],
)
async def test_several(layers: list[Timeout], least: float, most: float) -> None:
    """The shortest counts; None switches off what was said further out."""
    app = Site(*layers)
    async with serving(app) as client:
        assert (await client.ask("/quick")).status == 200
        assert least <= app.left[0] <= most
        assert (await client.ask("/nothing")).status == 404


@pytest.mark.parametrize(
    ("layers", "least", "most"),
    [
        ([Timeout(30)], inf, inf),
        ([Timeout(30, streams=True)], 20, 30),
        ([Timeout(30), Timeout(60)], inf, inf),
        ([Timeout(60), Timeout(30)], inf, inf),
        ([Timeout(30), Timeout(60, streams=True)], 50, 60),
        ([Timeout(60), Timeout(30, streams=True)], 20, 30),
        ([Timeout(30, streams=True), Timeout(60)], 20, 30),
        ([Timeout(60, streams=True), Timeout(30)], 50, 60),
        ([Timeout(60, streams=True), Timeout(30, streams=True)], 20, 30),
        ([Timeout(30, streams=True), Timeout(60, streams=True)], 20, 30),
        ([Timeout(30, streams=True), Timeout(None)], inf, inf),
        ([Timeout(30), Timeout(None)], inf, inf),
    ],
)
async def test_streams(layers: list[Timeout], least: float, most: float) -> None:
    """Their time ends with their start, unless it was said that it covers them."""
    app = Site(*layers)
    async with serving(app) as client:
        assert (await client.ask("/stream")).body == b"ab"
        assert least <= app.left[0] <= most


async def test_a_limit_of_the_server_stays() -> None:
    """It covers streams, and a longer one here does not move it."""
    for layer in (Timeout(30), Timeout(300), Timeout(300, streams=True)):
        app = Site(layer)
        async with serving(app, timeouts=ServerTimeouts(request=100)) as client:
            assert (await client.ask("/stream")).body == b"ab"
            assert 90 <= app.left[0] <= 100


async def test_a_stream_that_takes_too_long_is_cut() -> None:
    """With ``streams=True``: its head was sent, so the connection ends, and the client notices."""
    app = Site(Timeout(SOON, streams=True))
    async with serving(app) as client:
        await client.client.send(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n")
        assert not (await client.client.rest()).endswith(b"0\r\n\r\n")
        await asyncio.wait_for(app.ended.wait(), 5)


async def test_files_and_websockets(tmp_path: Path) -> None:
    """A file is sent as ever; a WebSocket has answered, and has no deadline."""
    file = tmp_path / "a.bin"
    file.write_bytes(b"a" * 100_000)
    for streams in (False, True):
        app = Site(Timeout(30, streams=streams), file=file)
        async with serving(app) as client:
            assert len((await client.ask("/file")).body) == 100_000
            assert (await client.ask("/ws", *UPGRADE)).status == 101
            assert await client.client.exactly(7) == b"\x81\x05hello"


@pytest.mark.parametrize("seconds", [0, -1, inf, nan])
def test_misconfiguration(seconds: float) -> None:
    """What is no time is refused."""
    with pytest.raises(ValueError, match="above 0 and finite, or None"):
        Timeout(seconds)
