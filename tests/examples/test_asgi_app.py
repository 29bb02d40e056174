"""The ASGI application without a framework, hosted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples import asgi_app
from forebay.http import ASGIApplication, HTTPServer
from forebay.http.websocket_client import connect
from tests.examples.processes import forebay_run
from tests.support import RawClient, eventually, free_port, raw_client, running


@pytest.fixture
async def application() -> ASGIApplication:
    """The example; it must have a lifespan."""
    return ASGIApplication(asgi_app.app, lifespan="on")


@pytest.fixture
async def server(application: ASGIApplication) -> AsyncIterator[HTTPServer]:
    """Served on a free port."""
    async with running(HTTPServer(application, bind="http://127.0.0.1:0")) as fresh:
        yield fresh


@pytest.fixture
async def client(server: HTTPServer) -> AsyncIterator[RawClient]:
    """A client of it."""
    async with raw_client(server.addresses[0].port) as fresh:
        yield fresh


async def test_what_the_lifespan_has_made_is_in_each_scope(client: RawClient) -> None:
    """It says for how long it has been up; other paths are a 404."""
    assert (await client.get("/"))[::2] == (200, b"up for 0 s\n")
    assert (await client.get("/nothing"))[0] == 404


async def test_content_is_taken_as_it_comes(client: RawClient) -> None:
    """What is uploaded is counted, however long it is."""
    await client.send(b"PUT /size HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
    await client.send(b"x" * 1_000_000)
    assert (await client.response())[::2] == (200, b"1000000 bytes\n")


async def test_a_stream_ends_with_its_client(
    client: RawClient, application: ASGIApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks come piece by piece, and end when the client leaves."""
    monkeypatch.setattr(asgi_app, "TICK", 0.01)
    await client.send(b"GET /ticks HTTP/1.1\r\nHost: test\r\n\r\n")
    await client.reader.readuntil(b"tick\n\r\n5\r\ntick\n")
    assert len(application.calls) == 1
    await client.close()
    await eventually(lambda: not application.calls)


async def test_an_upload_that_is_broken_off_ends_the_call(client: RawClient, application: ASGIApplication) -> None:
    """The application is told that the client has gone."""
    await client.send(b"PUT /size HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345")
    await eventually(lambda: application.calls)
    client.abort()
    await eventually(lambda: not application.calls)


async def test_the_websocket_sends_everything_back(server: HTTPServer) -> None:
    """Text and binary."""
    async with connect(f"ws://127.0.0.1:{server.addresses[0].port}/") as ws:
        for message in ("grüße", b"\x00\xff"):
            await ws.send(message)
            assert await ws.receive(timeout=5) == message


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` finds out by itself that it is an ASGI application, and exits with 0 at a SIGTERM."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with forebay_run("examples.asgi_app:app", tmp_path / "log", "--bind", url), raw_client(port) as client:
        assert (await client.get("/"))[0] == 200
