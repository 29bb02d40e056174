"""BodyLimit: announced content is refused at once, other content at the piece that is too much."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.http import App, Request
from forebay.http.middleware import BodyLimit
from tests.http.middleware.served import UPGRADE, serving


def site(*limits: BodyLimit, body_limit: int | None = 1000) -> App[Any]:
    """An application that counts what it is sent; ``read`` in its state is what its handlers have got."""
    app: App[Any] = App(body_limit=body_limit)
    app.state.read = 0
    app.state.first = asyncio.Event()
    for limit in limits:
        app.middleware(limit)

    @app.post("/whole")
    async def whole(request: Request) -> int:
        app.state.read = len(await request.body())
        return int(app.state.read)

    @app.post("/stream")
    async def stream(request: Request) -> int:
        app.state.read = 0
        async for piece in request.stream():
            app.state.read += len(piece)
            app.state.first.set()
        return int(app.state.read)

    @app.post("/unread")
    async def unread() -> str:
        return "fine"

    @app.get("/")
    async def root() -> str:
        return "a"

    @app.websocket("/ws")
    async def ws(ws: Any) -> None:
        return None

    return app


@pytest.mark.parametrize("path", ["/whole", "/stream", "/unread"])
async def test_announced_content(path: str) -> None:
    """Up to the limit it is read, past it 413 without the handler; also where it all came with the head."""
    app = site(BodyLimit(5))
    async with serving(app) as client:
        assert (await client.ask(path, method="POST", body=b"12345")).status == 200
        app.state.read = 0
        answer = await client.ask(path, method="POST", body=b"123456")
        assert (answer.status, answer.detail) == (413, "the content is longer than 5 bytes")
        assert app.state.read == 0
        assert (await client.ask("/")).status == 200  # so little is read to its end, and the connection goes on


async def test_announced_content_is_not_waited_for() -> None:
    """Neither sent nor asked for: the answer comes at once, without 100, and closes the connection."""
    for expect in (b"", b"expect: 100-continue\r\n"):
        async with serving(site(BodyLimit(5), body_limit=None)) as client:
            await client.client.send(b"POST /whole HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n%b\r\n" % expect)
            status, headers, _ = await client.client.response()
            assert (status, headers["connection"]) == (413, "close")


async def test_content_in_chunks_is_counted() -> None:
    """To the byte, whole and streamed; the handler has had no more than the limit when it ends."""
    app = site(BodyLimit(5))
    async with serving(app) as client:
        for path in ("/whole", "/stream"):
            assert (await client.chunked(path, [b"123", b"45"])).body == b"5"
            assert (await client.chunked(path, [])).status == 200
    for path in ("/whole", "/stream"):
        async with serving(app) as client:
            answer = await client.chunked(path, [b"123", b"456"])
            assert (answer.status, answer.detail) == (413, "the content is longer than 5 bytes")
            assert app.state.read <= 5


async def test_chunks_that_come_one_by_one() -> None:
    """Pieces within the limit reach the handler, the one past it does not."""
    app = site(BodyLimit(5))
    async with serving(app) as client:
        await client.client.send(b"POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\n123\r\n")
        await asyncio.wait_for(app.state.first.wait(), 5)
        await client.client.send(b"3\r\n456\r\n")
        assert (await client.client.response())[0] == 413
        assert app.state.read == 3


async def test_several_limits_and_none() -> None:
    """The smallest counts, whichever is further out; 0 forbids content, and not requests without."""
    for limits in ([BodyLimit(5), BodyLimit(9)], [BodyLimit(9), BodyLimit(5)]):
        async with serving(site(*limits)) as client:
            assert (await client.ask("/whole", method="POST", body=b"12345")).status == 200
            assert (await client.ask("/whole", method="POST", body=b"123456")).status == 413
            assert (await client.chunked("/whole", [b"123456"])).status == 413
    async with serving(site(BodyLimit(0))) as client:
        assert (await client.ask("/")).status == 200
        assert (await client.ask("/whole", method="POST", body=b"")).status == 200
        assert (await client.ask("/whole", method="POST", body=b"1")).status == 413
        assert (await client.ask("/ws", *UPGRADE)).status == 101


async def test_a_larger_limit_than_the_applications() -> None:
    """The server's stands in its way: that is logged once, and not an error."""
    async with serving(site(BodyLimit(2000))) as client:
        with capture_logs() as logged:
            assert (await client.ask("/whole", method="POST", body=b"a" * 1000)).status == 200
            assert (await client.ask("/whole", method="POST", body=b"a" * 1001)).status == 413
        (entry,) = (entry for entry in logged if entry["event"] == "body limit has no effect")
        assert (entry["limit"], entry["app_limit"]) == (2000, 1000)


def test_misconfiguration() -> None:
    """Less than nothing is refused."""
    with pytest.raises(ValueError, match="0 bytes or more"):
        BodyLimit(-1)
