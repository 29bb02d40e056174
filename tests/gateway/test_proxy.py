"""Requests through a gateway: what goes over, and what goes wrong."""

from __future__ import annotations

import asyncio
import json

import pytest

from forebay.config import schema
from tests.gateway.kit import (
    HELLO,
    FakeConnection,
    backend,
    fake_target,
    gateway_to,
    metric,
    port_of,
    says_hello,
)
from tests.support import eventually, free_port, raw_client

# -- what goes over


@pytest.mark.both_loops
async def test_a_request_and_its_answer_go_through() -> None:
    """Method, target, query, header order and body arrive; so do status, headers and body of the answer."""
    async with backend() as (_, url), gateway_to(url) as gateway, raw_client(port_of(gateway)) as client:
        await client.send(
            b"PUT /a%20b/c?x=1&y=%2F? HTTP/1.1\r\nHost: shop.example:8080\r\nX-One: 1\r\nAccept: a\r\nAccept: b\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        )
        status, headers, body = await client.response()
        told = json.loads(body)
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert {"date", "server"} <= set(headers)
        assert (told["method"], told["target"], told["body"]) == ("PUT", "/a%20b/c?x=1&y=%2F?", "hello")
        assert told["headers"] == [
            ["host", "shop.example:8080"],
            ["X-One", "1"],
            ["Accept", "a"],
            ["Accept", "b"],
            ["x-forwarded-for", "127.0.0.1"],
            ["x-forwarded-proto", "http"],
            ["x-forwarded-host", "shop.example:8080"],
            ["content-length", "5"],
        ]


async def test_connections_to_targets_are_kept() -> None:
    """A hundred requests of two clients in turn use one connection."""
    async with (
        fake_target(says_hello) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as one,
        raw_client(port_of(gateway)) as other,
    ):
        for _ in range(50):
            assert (await one.get("/"))[2] == b"hello"
            assert (await other.get("/"))[2] == b"hello"
        assert target.connections == 1
        assert metric(gateway, "forebay_gateway_requests", route="r", upstream="u", status="200") == 100
        assert metric(gateway, "forebay_gateway_upstream_connections", state="idle") == 1
        assert metric(gateway, "forebay_gateway_upstream_connections", state="busy") == 0


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Ten requests in one packet get ten answers, each to its own."""
    async with backend() as (_, url), gateway_to(url) as gateway, raw_client(port_of(gateway)) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(10)))
        answers = [await client.response() for _ in range(10)]
        assert [json.loads(body)["target"] for _, _, body in answers] == [f"/{n}" for n in range(10)]


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: x\r\n\r\n", 304, b""),
        (b"HTTP/1.1 418 \r\nContent-Length: 0\r\n\r\n", 418, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a"),
    ],
)
async def test_framings_of_answers(answer: bytes, status: int, body: bytes) -> None:
    """Length, chunks, none: whatever the framing, the connection is good for the next request."""

    async def script(fake: FakeConnection) -> None:
        while True:
            await fake.request()
            await fake.send(answer)

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for _ in range(2):
            got_status, _, got_body = await client.get("/")
            assert (got_status, got_body) == (status, body)
        assert target.connections == 1


async def test_answers_that_arrive_byte_by_byte() -> None:
    """However the answer is cut, it is the same answer."""

    async def script(fake: FakeConnection) -> None:
        while True:
            await fake.request()
            for (
                byte
            ) in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n":
                await fake.send(bytes([byte]))
                await asyncio.sleep(0)

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for _ in range(2):
            status, headers, body = await client.get("/")
            assert (status, headers["x-a"], body) == (200, "b", b"abcde")
        assert target.connections == 1


async def test_a_body_that_ends_with_the_connection() -> None:
    """Close-delimited: passed on in chunks, complete, and the connection is not used again."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhel")
        await fake.send(b"lo")

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for expected in (1, 2):
            status, _, body = await client.get("/")
            assert (status, body) == (200, b"hello")
            assert target.connections == expected
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0


async def test_head_has_no_body_and_keeps_its_length() -> None:
    """The announced length is passed on, no content is waited for, and the connection is kept."""

    async def script(fake: FakeConnection) -> None:
        while True:
            seen = await fake.request()
            body = b"" if seen.line.startswith("HEAD") else b"hello"
            await fake.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, headers, _ = await client.response(head_only=True)
            assert (status, headers["content-length"]) == (200, "5")
            assert (await client.get("/"))[2] == b"hello"
        assert target.connections == 1


async def test_early_hints_are_passed_on() -> None:
    """103 goes through, 100 does not: the server in front says that itself."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + HELLO)
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        status, headers, _ = await client.get("/")
        assert (status, headers["link"]) == (103, "</a.css>")
        assert (await client.response())[2] == b"hello"


async def test_connection_close_of_a_target_is_honoured() -> None:
    """It is not used again, and the client's own connection goes on."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for expected in (1, 2):
            _, headers, body = await client.get("/")
            assert body == b"ok"
            assert "connection" not in headers
            assert target.connections == expected


async def test_chunked_requests_arrive_chunked() -> None:
    """The content is the same, and so is its framing."""
    async with (
        fake_target(says_hello) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await eventually(lambda: target.seen)
        await client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.response())[0] == 200
        (seen,) = target.seen
        assert seen.body == b"abcde"
        assert "content-length" not in seen.headers
        assert (await client.get("/"))[0] == 200
        assert target.connections == 1


async def test_expect_continue_is_answered_when_a_target_is_there() -> None:
    """The client is asked for its content once; the target is not asked to ask."""
    async with (
        fake_target(says_hello) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert (await client.response())[0] == 100
        await client.send(b"abc")
        assert (await client.response())[0] == 200
        assert target.seen[0].body == b"abc"
        assert "expect" not in target.seen[0].headers


async def test_http10_clients_get_an_answer_that_ends() -> None:
    """Chunks mean nothing to them; without a Host the target's own is sent."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await fake.send(b"0\r\n\r\n")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.rest()
        assert answer.endswith(b"\r\n\r\nabc")
        assert b"chunked" not in answer
        assert target.seen[0].headers["host"] == target.url.removeprefix("http://")


async def test_absolute_form_becomes_origin_form() -> None:
    """A target is asked for a path."""
    async with backend() as (_, url), gateway_to(url) as gateway, raw_client(port_of(gateway)) as client:
        await client.send(b"GET http://shop.example/a?b=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert json.loads((await client.response())[2])["target"] == "/a?b=1"


async def test_strip_prefix() -> None:
    """The prefix goes, the rest stays as it was written."""
    async with (
        backend() as (_, url),
        gateway_to(url, strip_prefix="/api/v1", match=schema.Match(path="/api/v1/*")) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for path, expected in {
            "/api/v1/users/a%2Fb?q=/api/v1": "/users/a%2Fb?q=/api/v1",
            "/api/v1": "/",
            "/api/v1?x=1": "/?x=1",
            "/api/v1/": "/",
            "/%61pi/v%31/x": "/x",
            "/api%2Fv1/x": "/api%2Fv1/x",
        }.items():
            _, _, body = await client.get(path)
            assert json.loads(body)["target"] == expected, path


async def test_weights_are_followed() -> None:
    """Three to one."""
    async with backend("a") as (_, a), backend("b") as (_, b):
        targets = [schema.Target(url=a, weight=3), schema.Target(url=b)]
        async with gateway_to(*targets) as gateway, raw_client(port_of(gateway)) as client:
            order = [json.loads((await client.get("/"))[2])["by"] for _ in range(8)]
    assert "".join(order) == "aabaaaba"


# -- answers of the gateway's own


async def test_no_route_and_wrong_method() -> None:
    """404 and 405 with Allow, as problem documents that say nothing of the inside; both are counted."""
    match = schema.Match(path="/a/*", methods=["GET", "POST"])
    async with (
        backend() as (application, url),
        gateway_to(url, match=match) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        status, headers, body = await client.get("/b")
        assert (status, headers["content-type"]) == (404, "application/problem+json")
        assert json.loads(body)["status"] == 404
        await client.send(b"DELETE /a/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = await client.response()
        assert (status, headers["allow"]) == (405, "GET, HEAD, POST")
        status, _, _ = await client.get("/a/%ff")
        assert status == 400
        assert (await client.get("/a/1"))[0] == 200
        assert application.requests == 1
        assert metric(gateway, "forebay_gateway_requests", route="", status="404") == 1
        assert metric(gateway, "forebay_gateway_requests", route="", status="405") == 1


async def test_rate_limit() -> None:
    """Past the burst: 429, when to come again, and nothing reaches the target."""
    limit = schema.Filter(rate_limit=schema.RateLimit(rate=0.01, burst=2))
    async with (
        backend() as (application, url),
        gateway_to(url, filters=[limit]) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert [(await client.get("/"))[0] for _ in range(2)] == [200, 200]
        status, headers, _ = await client.get("/")
        assert (status, headers["retry-after"]) == (429, "100")
        assert application.requests == 2
        assert metric(gateway, "forebay_gateway_requests", route="r", status="429") == 1


# -- what goes wrong


async def test_a_refused_connection_is_tried_elsewhere_even_for_post() -> None:
    """Nothing was sent, so any method may go on to another target; the dead one is taken out."""
    dead = schema.Target(url=f"http://127.0.0.1:{free_port()}", weight=100)
    async with (
        backend() as (application, url),
        gateway_to(dead, url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        for _ in range(3):
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
            status, _, body = await client.response()
            assert (status, json.loads(body)["body"]) == (200, "ab")
        assert application.requests == 3
        assert metric(gateway, "forebay_gateway_retries") == 1
        assert metric(gateway, "forebay_gateway_ejections", target=dead.url) == 1
        assert metric(gateway, "forebay_gateway_upstream_failures", target=dead.url, reason="connect-failed") == 1
        assert metric(gateway, "forebay_gateway_target_up", target=dead.url) == 0


async def test_all_targets_dead() -> None:
    """502 with a reason and nothing about where; the next request tries again."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    async with gateway_to(*urls) as gateway, raw_client(port_of(gateway)) as client:
        for n in (1, 2, 3):
            status, _, body = await client.get("/")
            assert (status, json.loads(body)["reason"]) == (502, "connect-failed")
            assert b"127.0.0.1" not in body
            assert metric(gateway, "forebay_gateway_upstream_requests") == 2 * n
        assert metric(gateway, "forebay_gateway_requests", status="502") == 3
        assert metric(gateway, "forebay_gateway_ejections") == 2


async def test_backups_are_used_when_no_primary_is_up() -> None:
    """And only then."""
    dead = f"http://127.0.0.1:{free_port()}"
    async with backend("primary") as (_, url), backend("backup") as (spare, spare_url):
        backup = schema.Target(url=spare_url, backup=True)
        async with gateway_to(url, backup) as gateway, raw_client(port_of(gateway)) as client:
            for _ in range(5):
                assert (await client.get("/"))[0] == 200
            assert spare.requests == 0
        async with gateway_to(dead, backup) as gateway, raw_client(port_of(gateway)) as client:
            for _ in range(5):
                assert json.loads((await client.get("/"))[2])["by"] == "backup"
            assert metric(gateway, "forebay_gateway_upstream_failures", target=dead) == 1


async def dies_before_answering(fake: FakeConnection) -> None:
    """Takes the request and resets."""
    await fake.request()
    fake.reset()


async def test_a_connection_that_dies_before_the_answer() -> None:
    """An idempotent request goes to another target, a POST may have been processed and does not."""
    async with fake_target(dies_before_answering) as bad, backend() as (application, good):
        options = {"balance": "round-robin"}
        async with gateway_to(bad.url, good, **options) as gateway, raw_client(port_of(gateway)) as client:
            assert (await client.get("/"))[0] == 200
            assert metric(gateway, "forebay_gateway_upstream_failures", target=bad.url, reason="closed") == 1
        async with gateway_to(bad.url, good, **options) as gateway, raw_client(port_of(gateway)) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
            status, _, body = await client.response()
            assert (status, json.loads(body)["reason"]) == (502, "closed")
        async with gateway_to(bad.url, good, **options) as gateway, raw_client(port_of(gateway)) as client:
            await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            await eventually(lambda: len(bad.seen) == 3)
            await client.send(b"ab")  # not with the head: it has been sent to the first target when that dies
            status, _, body = await client.response()
            assert (status, json.loads(body)["body"]) == (200, "ab")
    assert application.requests == 2


async def test_a_kept_connection_that_died() -> None:
    """Not the target's fault: a GET uses a fresh connection, even with one target and no retries; nobody is ejected."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(HELLO)
        if fake.number == 1:
            await fake.head()
            fake.reset()
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url, retry=schema.RetryConfig(attempts=1)) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[2] == b"hello"
        assert (await client.get("/"))[2] == b"hello"
        assert target.connections == 2
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0
        assert metric(gateway, "forebay_gateway_retries") == 1


async def test_a_post_on_a_kept_connection_that_died_is_not_repeated() -> None:
    """It was written, so nobody knows whether it was processed."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(HELLO)
        await fake.request()
        fake.reset()

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[2] == b"hello"
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
        assert (await client.response())[0] == 502
        assert len(target.seen) == 2


async def test_a_kept_connection_the_target_closes_is_noticed() -> None:
    """Closed while idle: it is out of the pool before anybody uses it."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(HELLO)  # and that was it

    async with (
        fake_target(script) as target,
        gateway_to(target.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 200
        await eventually(lambda: metric(gateway, "forebay_gateway_upstream_connections") == 0)
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
        assert (await client.response())[0] == 200
        assert target.connections == 2
