"""Hostile bytes at the gateway's front door: refused there, so no target ever sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from forebay.config import schema
from forebay.gateway import Gateway
from forebay.http import App, HTTPServer
from tests.support import raw_client

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

CASES = {
    "length and coding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "obs-fold": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "100 KiB header": (GET + b"X: " + b"a" * 102_400 + b"\r\n\r\n", 431),
    "20,000 headers": (GET + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    "NUL in a header": (GET + b"X: a\x00b\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: a\r\n\r\n", 400),
    "absolute-form for another host": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "dot segments": (b"GET /../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "encoded dot segments": (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
}


@pytest.fixture
async def front() -> AsyncIterator[tuple[int, list[str]]]:
    """The gateway's port, and the paths its target was asked for."""
    app = App()
    seen: list[str] = []

    @app.get("/{rest:path}")
    def anything(rest: str) -> str:
        seen.append(rest)
        return rest

    @app.get("/")
    def root() -> str:
        seen.append("")
        return "root"

    target = HTTPServer(app, bind="http://127.0.0.1:0")
    await target.start()
    config = schema.SystemConfig(
        gateway=schema.GatewayConfig(bind=["http://127.0.0.1:0"]),
        upstreams={"u": schema.Upstream(targets=[schema.Target(url=str(target.addresses[0]))])},
        routes=[schema.Route(name="all", upstream="u", match=schema.Match(path="/*"))],
    )
    gateway = Gateway(config)
    await gateway.start()
    yield gateway.addresses[0].port, seen
    await gateway.stop()
    await target.stop()


@pytest.mark.parametrize("case", CASES)
async def test_hostile_requests_are_refused_before_any_target(front: tuple[int, list[str]], case: str) -> None:
    """Each gets its 4xx, the connection ends, no target was asked, and the next client is served."""
    port, seen = front
    data, status = CASES[case]
    async with raw_client(port) as client:
        await client.send(data)
        assert (await client.response())[0] == status
        assert await client.rest() == b""
    assert seen == []
    async with raw_client(port) as client:
        assert (await client.get("/x"))[2] == b"x"


async def test_what_is_only_unusual_is_served(front: tuple[int, list[str]]) -> None:
    """Absolute-form for the host itself, an Upgrade nobody takes, HTTP/1.0, odd but valid paths."""
    port, seen = front
    async with raw_client(port) as client:
        for request, body in (
            (b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", b"x"),
            (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b"root"),
            (b"GET /a%2Fb/%20 HTTP/1.1\r\nHost: a\r\n\r\n", b"a/b/ "),
            (b"GET /y HTTP/1.0\r\n\r\n", b"y"),
        ):
            await client.send(request)
            assert (await client.response())[2] == body
    assert seen == ["x", "", "a/b/ ", "y"]
