"""What may go wrong on the way: targets and clients that are slow, rude, or gone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from forebay.config import schema
from tests.gateway.kit import (
    HELLO,
    FakeConnection,
    backend,
    fake_target,
    gateway_to,
    metric,
    never_answers,
    port_of,
    says_hello,
)
from tests.support import eventually, raw_client

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


# -- targets


async def test_a_target_that_never_answers() -> None:
    """504 when the route's timeout is over; the connection is not used again."""
    async with (
        fake_target(never_answers) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        status, _, body = await client.get("/")
        assert (status, json.loads(body)["reason"]) == (504, "timeout")
        assert metric(gateway, "forebay_gateway_upstream_failures", reason="timeout") == 1
        await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)


async def test_the_time_of_a_route_is_for_all_its_tries() -> None:
    """After a timeout nothing is left to try another target with."""
    async with (
        fake_target(never_answers) as one,
        fake_target(never_answers) as other,
        gateway_to(one.url, other.url, timeout=0.3) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 504
        assert one.connections + other.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel",
    ],
    ids=["length", "chunked"],
)
async def test_an_answer_that_breaks_off_is_cut(head: bytes) -> None:
    """The client sees that it is not complete, and the target is to blame."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(head)

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.rest()
        assert not answer.endswith((b"0\r\n\r\n", b"0123456789"))
        assert metric(gateway, "forebay_gateway_upstream_failures", reason="closed") == 1
        assert metric(gateway, "forebay_gateway_requests", status="200") == 1


async def test_a_reset_ends_no_body_that_only_a_close_would_end() -> None:
    """Close-delimited content that is reset has been cut, not completed."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await release.wait()
        fake.reset()

    release = asyncio.Event()
    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.line() == b"HTTP/1.1 200 OK\r\n"
        release.set()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_stall_in_the_middle_of_an_answer_is_cut() -> None:
    """Between two pieces the route's timeout counts as well."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.rest()).endswith(b"hel")
        assert metric(gateway, "forebay_gateway_upstream_failures", reason="timeout") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00\x01\x02\x03" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 70_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 201 + b"Content-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["ssh", "binary", "two-lengths", "bad-length", "bad-chunk", "64k", "200-fields", "upgrade"],
)
async def test_what_is_not_http_is_502(answer: bytes) -> None:
    """Whatever comes, the client gets a well-formed answer, and the next request a fresh connection."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        if fake.number > 1:
            await fake.send(HELLO)
        else:
            await fake.send(answer)
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        status, _, body = await client.get("/")
        assert (status, json.loads(body)["reason"]) == (502, "protocol-error")
        assert metric(gateway, "forebay_gateway_upstream_failures", reason="protocol-error") == 1
        assert (await client.get("/"))[2] == b"hello"
        assert target.connections == 2


async def test_bytes_after_an_answer_are_nobodys_answer() -> None:
    """A second answer that nobody asked for never reaches a client; the connection is closed."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(HELLO + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for expected in (1, 2, 3):
            assert (await client.get("/"))[2] == b"hello"
            assert target.connections == expected


async def test_bytes_on_an_idle_connection_close_it() -> None:
    """A target that speaks without being asked is not listened to."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(HELLO)
        await speak.wait()
        await fake.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        await fake.until_closed()

    speak = asyncio.Event()
    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[2] == b"hello"
        speak.set()
        await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)
        assert (await client.get("/"))[2] == b"hello"


async def test_repeated_answers_are_told_apart() -> None:
    """The same head again and again, then with other content, behind an interim one, and with more than it says."""
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    answers = [HELLO] * 4 + [HELLO[:-5] + b"world", interim + HELLO, interim + HELLO, HELLO, HELLO + b"!"]

    async def script(fake: FakeConnection) -> None:
        while answers:
            await fake.request()
            await fake.send(answers.pop(0))
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        got = []
        for _ in range(len(answers)):
            status, _, body = await client.get("/")
            while status == 103:
                status, _, body = await client.response()
            got.append(body)
        assert got == [b"hello"] * 4 + [b"world"] + [b"hello"] * 4
        assert target.connections == 1


async def test_a_probe_brings_a_target_back() -> None:
    """Out for fail_timeout, then one request tries it, and its success ends the outage."""
    broken = True

    async def script(fake: FakeConnection) -> None:
        while True:
            await fake.request()
            if broken:
                fake.reset()
            await fake.send(HELLO)

    async with fake_target(script) as target, backend() as (_, good):
        flaky = schema.Target(url=target.url, fail_timeout=0.3)
        async with gateway_to(flaky, good) as gateway, raw_client(port_of(gateway)) as client:
            assert (await client.get("/"))[0] == 200
            assert metric(gateway, "forebay_gateway_target_up", target=target.url) == 0
            broken = False
            while not metric(gateway, "forebay_gateway_target_up", target=target.url):
                assert (await client.get("/"))[0] == 200
            assert metric(gateway, "forebay_gateway_ejections") == 1


# -- clients


async def test_a_client_that_leaves_is_not_the_targets_fault() -> None:
    """The connection to the target is closed at once, and nothing is counted against it."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await fake.until_closed()
        closed.set()

    closed = asyncio.Event()
    async with fake_target(script) as target, gateway_to(target.url) as gateway:
        async with raw_client(port_of(gateway)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: target.seen)
            client.abort()
        await asyncio.wait_for(closed.wait(), 5)
        assert metric(gateway, "forebay_gateway_requests", status="499") == 1
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0
        assert metric(gateway, "forebay_gateway_target_up") == 1
        await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)


async def test_a_client_that_leaves_in_the_middle_of_its_request() -> None:
    """Half an upload is no request: the target's connection is closed."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await fake.until_closed()
        closed.set()

    closed = asyncio.Event()
    async with fake_target(script) as target, gateway_to(target.url) as gateway:
        async with raw_client(port_of(gateway)) as client:
            await client.send(POST % 1000 + b"abc")
            await eventually(lambda: target.seen)
        await asyncio.wait_for(closed.wait(), 5)
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0


async def test_a_slow_upload_is_not_the_targets_fault() -> None:
    """While the client is the one who is waited for, the route's timeout does not run."""
    async with (
        backend() as (_, url),
        gateway_to(url, timeout=0.3) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(POST % 4)
        for byte in b"abcd":
            await asyncio.sleep(0.2)  # what is tested is the passing of time
            await client.send(bytes([byte]))
        status, _, body = await client.response()
        assert (status, json.loads(body)["body"]) == (200, "abcd")


async def test_an_answer_before_the_end_of_the_request() -> None:
    """It reaches the client, and the connection to the target, with half a request on it, is not used again."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await fake.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(POST % 10_000_000 + b"abc")
        status, _, body = await client.response()
        assert (status, body) == (413, b"big")
        await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)


async def test_a_large_upload_is_not_sent_twice() -> None:
    """Past what is kept for it, even an idempotent request is not repeated."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await fake.reader.readexactly(150_000)
        fake.reset()

    async with (
        fake_target(script) as bad,
        backend() as (application, good),
        gateway_to(bad.url, good, balance="round-robin") as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        await eventually(lambda: bad.seen)
        await client.send(b"x" * 150_000)
        assert (await client.response())[0] == 502
        assert application.requests == 0


# -- backpressure


async def test_a_slow_reader_slows_the_target_down() -> None:
    """A 64 MiB download to a client that does not read stays where it is; then it arrives whole."""
    size = 64 << 20
    piece = bytes(range(256)) * 256
    sent = 0

    async def script(fake: FakeConnection) -> None:
        nonlocal sent
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await fake.send(piece)
            sent += len(piece)

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=0.5) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        before = resident()
        await eventually(lambda: sent > 0)
        still = -1
        while still != sent:  # until it has come to a standstill, for longer than the route's timeout
            still = sent
            await asyncio.sleep(0.8)
        assert sent < size // 2
        assert resident() - before < 20 << 20
        digest = hashlib.sha256()
        while await client.line() != b"\r\n":
            pass
        left = size
        while left:
            data = await asyncio.wait_for(client.reader.read(1 << 20), 5)
            assert data
            digest.update(data)
            left -= len(data)
        assert digest.digest() == hashlib.sha256(piece * (size // len(piece))).digest()
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0


async def test_a_slow_target_slows_the_client_down() -> None:
    """A 64 MiB upload to a target that does not read stays with the client; then it arrives whole."""
    size = 64 << 20
    piece = bytes(range(256)) * 256
    digest = hashlib.sha256()
    go_on = asyncio.Event()

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await go_on.wait()
        left = size
        while left:
            data = await fake.reader.read(1 << 20)
            digest.update(data)
            left -= len(data)
        await fake.send(HELLO)
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=20.0) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        before = resident()
        sent = 0

        async def upload() -> None:
            nonlocal sent
            client.writer.write(POST % size)
            for _ in range(size // len(piece)):
                client.writer.write(piece)
                await client.writer.drain()
                sent += len(piece)

        uploading = asyncio.create_task(upload())
        still = -1
        while still != sent or not sent:
            still = sent
            await asyncio.sleep(0.3)
        assert sent < size // 2
        assert resident() - before < 20 << 20
        go_on.set()
        await asyncio.wait_for(uploading, 20)
        assert (await client.response())[2] == b"hello"
        assert digest.digest() == hashlib.sha256(piece * (size // len(piece))).digest()


async def test_a_target_that_does_not_read_is_given_up() -> None:
    """A stalled upload ends with the route's timeout."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await asyncio.sleep(20)

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=0.5) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        uploading = asyncio.create_task(client.send(POST % (64 << 20) + bytes(64 << 20)))
        assert (await client.response())[0] == 504
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)


async def test_connections_are_kept_no_longer_than_configured() -> None:
    """Neither more than keepalive, nor longer than keepalive_timeout."""
    async with fake_target(says_hello) as target:
        async with gateway_to(target.url, keepalive_timeout=0.3) as gateway, raw_client(port_of(gateway)) as client:
            assert (await client.get("/"))[0] == 200
            assert metric(gateway, "forebay_gateway_upstream_connections", state="idle") == 1
            await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)
        async with gateway_to(target.url, keepalive=0) as gateway, raw_client(port_of(gateway)) as client:
            for _ in range(3):
                assert (await client.get("/"))[0] == 200
            await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)
    assert target.connections == 4
