"""Active health checks."""

from __future__ import annotations

import asyncio

import pytest

from forebay.config import schema
from forebay.engine import parse_address
from forebay.gateway.checks import ask
from tests.gateway.kit import (
    HELLO,
    FakeConnection,
    backend,
    fake_target,
    gateway_to,
    metric,
    never_answers,
    port_of,
)
from tests.support import eventually, free_port, raw_client


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"rubbish\r\n\r\n", "not HTTP"),
        (b"", "connection ended"),
    ],
)
async def test_what_an_answer_says(answer: bytes, why: str) -> None:
    """2xx and 3xx are well; everything else has a reason."""

    async def script(fake: FakeConnection) -> None:
        seen = await fake.request()
        assert seen.line == "GET /livez?x=1 HTTP/1.1"
        assert seen.headers["host"] == target.url.removeprefix("http://")
        await fake.send(answer)

    async with fake_target(script) as target:
        said = await ask(parse_address(target.url, schemes=("http",)), "/livez?x=1", 5.0)
        assert said.startswith(why)
        assert bool(said) is bool(why)
        assert len(target.seen) == 1


async def test_no_answer_has_a_reason_too() -> None:
    """Refused, or nothing within the time."""
    said = await ask(parse_address(f"http://127.0.0.1:{free_port()}", schemes=("http",)), "/", 5.0)
    assert "connection refused" in said
    async with fake_target(never_answers) as target:
        said = await ask(parse_address(target.url, schemes=("http",)), "/", 0.1)
        assert said == "no answer within 0.1 s"
        await eventually(lambda: not target.tasks)


async def test_a_target_goes_and_comes_back() -> None:
    """Taken out after fall bad checks, without any request failing; back after rise good ones."""
    well = True

    async def script(fake: FakeConnection) -> None:
        while True:
            seen = await fake.request()
            if seen.line.startswith("GET /livez "):
                await fake.send(HELLO if well else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            else:
                await fake.send(HELLO)

    health = schema.Health(path="/livez", interval=0.02, timeout=0.02, rise=2, fall=3)
    async with fake_target(script) as target, backend() as (other, url):
        async with gateway_to(target.url, url, health=health) as gateway, raw_client(port_of(gateway)) as client:
            await eventually(lambda: len(target.seen) > 3)

            def up() -> float:
                return metric(gateway, "forebay_gateway_target_up", target=target.url)

            assert up() == 1
            well = False
            await eventually(lambda: not up())
            before = len(target.seen)
            for _ in range(5):
                assert (await client.get("/"))[0] == 200
            assert other.requests >= 5
            assert not [seen for seen in target.seen[before:] if "/livez" not in seen.line]
            well = True
            await eventually(up)
            assert metric(gateway, "forebay_gateway_ejections", target=target.url) == 1
        checked = len(target.seen)
        await asyncio.sleep(0.1)
        assert len(target.seen) == checked  # a stopped gateway asks no more
