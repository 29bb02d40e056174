"""TestClient: responses that come piece by piece, server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import DeadlineExceeded, UpstreamClosed
from forebay.http import App, Exchange, Response
from forebay.http.client.event_reader import EventReader
from forebay.testing import ServerSentEvent, TestClient
from tests.testing.client_app import Events, make_app


async def events_of(*pieces: bytes) -> AsyncIterator[bytes]:
    """Pieces of an event stream."""
    for piece in pieces:
        yield piece


@pytest.mark.both_loops
async def test_a_stream() -> None:
    """The pieces come as they are sent; at the end the connection is used again."""
    async with TestClient(make_app()) as client:
        async with client.stream("GET", "/stream", params={"count": 300, "size": 5000}) as response:
            assert response.status == 200
            with pytest.raises(RuntimeError, match="was not read"):
                _ = response.body
            received = b"".join([piece async for piece in response.stream()])
            with pytest.raises(RuntimeError, match="taken, or left, already"):
                await response.read()
        assert received == b"".join(bytes([number % 256]) * 5000 for number in range(300))
        async with client.stream("GET", "/stream", params={"count": 2}) as response:
            assert await response.read() == await response.read() == b"\x00\x01" == response.body
        assert client.server.statistics()["connections"]["accepted"] == 1


@pytest.mark.both_loops
async def test_a_slow_client_holds_the_stream_back() -> None:
    """While nobody takes pieces, the handler makes no more than the buffers between hold."""
    made = 0
    app: App[Any] = App()

    @app.get("/")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(256):
                made += 16384
                yield bytes(16384)

        return Response(pieces())

    async with TestClient(app) as client, client.stream("GET", "/") as response:
        last = -1
        while last != made:  # until nothing moves
            last = made
            for _ in range(50):
                await asyncio.sleep(0)
        assert 0 < made < 1024 * 1024
        assert len(await response.read()) == made == 4 * 1024 * 1024


@pytest.mark.both_loops
async def test_leaving_cancels_the_handler() -> None:
    """Who leaves a stream before its end leaves the server; when it is left, the handler knows."""
    events = Events()
    async with TestClient(make_app(events)) as client:
        async with client.stream("GET", "/endless") as response:
            async for piece in response.stream():
                assert piece == b"first"
                break
            assert not events.cancelled.is_set()
        assert events.cancelled.is_set()
        assert client.server.statistics()["disconnects"] == 1
        with pytest.raises(RuntimeError, match="left, already"):
            await response.read()


@pytest.mark.both_loops
async def test_a_stream_that_stops() -> None:
    """The wait for a piece ends, says how much there was; a request's time is for all of it."""
    events = Events()
    async with TestClient(make_app(events)) as client:
        async with client.stream("GET", "/endless", timeout=0.05) as response:
            with pytest.raises(DeadlineExceeded, match=r"no more of its content came \(5 bytes so far\) within 0.05 s"):
                async for _ in response.stream():
                    pass
        with pytest.raises(DeadlineExceeded, match=r"content was not complete \(5 bytes so far\) within 0\.05 s"):
            await client.get("/endless", timeout=0.05)


@pytest.mark.both_loops
async def test_a_stream_that_is_cut() -> None:
    """A response that the server breaks off is an error that says where."""

    class Cutting:
        name = "cutting"
        body_limit = None

        def on_request(self, exchange: Exchange) -> None:
            if exchange.raw_path == b"/at-once":
                exchange.conn.abort()
                return
            exchange.start(200, b"", 10)
            exchange.write(b"12345")
            if exchange.raw_path == b"/cut":
                asyncio.get_running_loop().call_soon(exchange.conn.close)

    async with TestClient(Cutting()) as client:
        with pytest.raises(UpstreamClosed, match=r"GET http://testserver/at-once: .*before its head"):
            await client.get("/at-once")
        with pytest.raises(UpstreamClosed, match="after 5 bytes of its content"):
            await client.get("/cut")
        async with client.stream("GET", "/never-ending") as response:
            pieces = response.stream()
            assert await anext(pieces) == b"12345"


@pytest.mark.both_loops
async def test_server_sent_events() -> None:
    """Events come as they are sent, with type, id and data; heartbeats are none."""
    go = asyncio.Event()
    app: App[Any] = App()

    @app.get("/")
    async def sse() -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield ": heartbeat\n\ndata: one\n\n"
            await go.wait()
            yield "id: 7\nevent: tick\ndata: a\ndata: ü\nretry: 50\n\ndata: last\n\ndata: unfinished\n"

        return Response(pieces(), content_type="text/event-stream")

    async with TestClient(app) as client:
        async with client.stream("GET", "/") as response:
            events = response.events()
            assert await anext(events) == ServerSentEvent("one")
            go.set()
            assert await anext(events) == ServerSentEvent("a\nü", "tick", "7", 50)
            assert [event async for event in events] == [ServerSentEvent("last", id="7")]
        go.clear()
        async with client.stream("GET", "/") as response:
            events = response.events(timeout=0.05)
            await anext(events)
            with pytest.raises(DeadlineExceeded, match="no event came"):
                await anext(events)
        async with client.stream("GET", "/nothing") as response:
            with pytest.raises(ValueError, match="'application/problem\\+json', not text/event-stream"):
                await anext(response.events())


@given(st.data())
def test_events_however_cut(data: st.DataObject) -> None:
    """Line ends of any kind, also between CR and LF, and letters that are cut make no difference."""
    text = "\ufeffdata: a\r\ndata:  ü\rid\revent: x\n\r\n:c\ndata\n\nid: 1\0\nid: 2\n\ndata: z\r\r"
    raw = text.encode()
    reader = EventReader()
    found: list[ServerSentEvent] = []
    at = 0
    while at < len(raw):
        size = data.draw(st.integers(1, 9))
        found += reader.feed(raw[at : at + size])
        at += size
    found += reader.feed(b"\n")
    assert found == [ServerSentEvent("a\n ü", "x"), ServerSentEvent(""), ServerSentEvent("z", id="2")]


def test_events_have_a_bound() -> None:
    """One that never ends is refused."""
    reader = EventReader()
    with pytest.raises(ValueError, match="longer than 1048576 characters"):
        for _ in range(100):
            reader.feed(b"data: " + bytes(20_000) + b"\n")
