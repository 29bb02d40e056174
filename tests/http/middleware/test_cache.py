"""Answers kept for those who ask the same, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.middleware import Cache
from tests.http.middleware.served import serving
from tests.support import RawClient, eventually, raw_client, running


class Clock:
    """Time that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """An application that counts how often it was asked, and waits where it is told to."""

    def __init__(self, cache: Cache) -> None:
        self.app: App[Any] = App()
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()
        self.headers: dict[str, str] = {}
        self.status = 200

        async def known(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            request.identity = request.headers.get("x-user")
            return await call_next(request)

        self.app.middleware(known)
        self.app.middleware(cache)
        self.app.route("/{path:path}", ("GET", "POST"))(self.answer)

    async def answer(self, request: Request, path: str) -> Response:
        """Its number."""
        self.calls += 1
        number = self.calls
        await self.go.wait()
        if self.status >= 500:
            raise HTTPError(self.status, "no")
        content: Any = f"{request.method} {number}"
        if path.startswith("stream"):
            content = self.pieces(number, path == "stream/long")
        return Response(content, status=self.status, headers=self.headers)

    async def pieces(self, number: int, long: bool) -> AsyncIterator[str]:
        """A stream, small or not."""
        yield "stream "
        if long:
            yield "x" * 2000
        yield str(number)


async def test_an_answer_is_given_again_for_its_time() -> None:
    """Age and what became of it are said; after the time it is made anew."""
    clock = Clock()
    shop = Shop(cache := Cache(ttl=10, clock=clock))
    async with serving(shop.app) as asker:
        first = await asker.ask("/a?x=1")
        assert first.headers["cache-status"] == "forebay; fwd=miss; stored"
        clock.now += 4.5
        second = await asker.ask("/a?x=1")
        assert (second.body, second.headers["age"]) == (first.body, "4")
        assert second.headers["cache-status"] == "forebay; hit; ttl=5"
        assert second.headers["content-type"] == first.headers["content-type"]
        clock.now += 5.5
        assert (await asker.ask("/a?x=1")).body == b"GET 2"
    assert (cache.hits, cache.misses, cache.statistics()["entries"]) == (1, 2, 1)


async def test_what_tells_requests_apart() -> None:
    """Path, query, host, method and the headers that are named; others do not."""
    shop = Shop(Cache(vary=["accept-language"], clock=Clock()))
    async with serving(shop.app) as asker:
        seen = [
            (await asker.ask("/a")).body,
            (await asker.ask("/a", ("x-other", "1"))).body,
            (await asker.ask("/b")).body,
            (await asker.ask("/a?q")).body,
            (await asker.ask("/a", host="else")).body,
            (await asker.ask("/a", host="TEST")).body,
            (await asker.ask("/a", ("accept-language", "de"))).body,
            (await asker.ask("/a", ("Accept-Language", "de"))).body,
        ]
        assert [int(body.split()[1]) for body in seen] == [1, 1, 2, 3, 4, 1, 5, 5]
        await asker.ask("/a", method="HEAD")
        assert shop.calls == 6


@pytest.mark.parametrize(
    ("cache_control", "lifetime"),
    [("max-age=5", 5), ("public, S-MaxAge=20, max-age=5", 20), ("max-age=0", 0), ("no-store", 0), ("private", 0),
     ("no-cache", 0), ("max-age=x", 0), ("public", 10), ('max-age="5"', 5), ('private="x", max-age=9', 0)],
)  # fmt: skip
async def test_the_answer_says_how_long(cache_control: str, lifetime: int) -> None:
    """What cache-control says comes before the ttl; its age counts."""
    clock = Clock()
    shop = Shop(Cache(ttl=10, clock=clock))
    shop.headers = {"cache-control": cache_control}
    async with serving(shop.app) as asker:
        await asker.ask("/a")
        if lifetime:
            clock.now += lifetime - 0.1
            await asker.ask("/a")
            assert shop.calls == 1
            clock.now += 0.1
        await asker.ask("/a")
        assert shop.calls == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"set-cookie": "a=b"}, 200),
        ({"vary": "accept, cookie"}, 200),
        ({"vary": "*"}, 200),
        ({}, 201),
        ({}, 404),
        ({}, 503),
    ],
)
async def test_answers_that_are_not_kept(headers: dict[str, str], status: int) -> None:
    """They are for one client, or are no success."""
    shop = Shop(cache := Cache(vary=["accept"], clock=Clock()))
    shop.headers, shop.status = headers, status
    async with serving(shop.app) as asker:
        for _ in range(3):
            await asker.ask("/a")
    assert (shop.calls, cache.stored) == (3, 0)


@pytest.mark.parametrize(
    "header",
    [("authorization", "Basic x"), ("cookie", "a=b"), ("x-user", "ann"), ("upgrade", "x")],
)
async def test_requests_that_are_somebodys_own(header: tuple[str, str]) -> None:
    """They neither get what is kept nor leave anything for others."""
    shop = Shop(cache := Cache(clock=Clock()))
    async with serving(shop.app) as asker:
        own = await asker.ask("/a", header)
        assert own.headers["cache-status"].startswith("forebay; fwd=")
        assert cache.stored == 0
        assert (await asker.ask("/a")).body == b"GET 2"
        assert (await asker.ask("/a", header)).body == b"GET 3"


@pytest.mark.parametrize("header", [("if-none-match", '"old"'), ("range", "bytes=0-1")])
async def test_conditions_and_ranges_that_the_handler_does_not_heed(header: tuple[str, str]) -> None:
    """Its 200 is the whole answer, and kept for all: browsers that only ask again would have it made each time."""
    shop = Shop(cache := Cache(clock=Clock()))
    async with serving(shop.app) as asker:
        assert {(await asker.ask("/a", header)).body for _ in range(3)} == {b"GET 1"}
        assert (await asker.ask("/a")).body == b"GET 1"
    assert (cache.misses, cache.hits) == (1, 3)


async def test_conditions_that_the_handler_heeds() -> None:
    """Its 304 is for who asked, and does not keep the others from the cache, nor from asking once."""
    go = asyncio.Event()
    asked: list[bool] = []
    app: App[Any] = App(middleware=[cache := Cache()])

    @app.get("/a")
    async def conditional(request: Request) -> Response:
        asked.append("if-none-match" in request.headers)
        await go.wait()
        return Response(status=304) if asked[-1] else Response("whole")

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(HTTPServer(app, bind="http://127.0.0.1:0")))
        clients = [await stack.enter_async_context(raw_client(server.addresses[0].port)) for _ in range(10)]
        await clients[0].send(b'GET /a HTTP/1.1\r\nhost: test\r\nif-none-match: "a"\r\n\r\n')
        await eventually(lambda: bool(asked))
        for client in clients[1:]:
            await client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n")
        await eventually(lambda: cache.shared == 9)
        go.set()
        assert (await clients[0].response(head_only=True))[0] == 304
        assert {(await client.response())[2] for client in clients[1:]} == {b"whole"}
    assert asked == [True, False]


async def test_the_cache_is_back_after_an_error() -> None:
    """An answer that cannot be kept does not keep later ones out: the first that can be is there for all."""
    shop = Shop(cache := Cache(ttl=3600, clock=Clock()))
    async with serving(shop.app) as asker:
        shop.status = 503
        assert [(await asker.ask("/a")).status for _ in range(2)] == [503, 503]
        shop.status = 200
        answers = [await asker.ask("/a") for _ in range(3)]
        assert [answer.body for answer in answers] == [b"GET 3"] * 3
        assert answers[0].headers["cache-status"] == "forebay; fwd=bypass; stored"
    assert cache.statistics()["entries"] == 1


async def test_who_has_no_patience_left_may_be_the_one_whose_answer_is_kept() -> None:
    """The one it has waited for fails in the end, which does not put an end to what is kept meanwhile."""
    fail = asyncio.Event()
    calls = 0
    app: App[Any] = App(middleware=[cache := Cache(patience=0.01)])

    @app.get("/a")
    async def slow() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await fail.wait()
            raise HTTPError(503, "no")
        return f"answer {calls}"

    async with serving(app) as first, serving(app) as second:
        failing = asyncio.create_task(first.ask("/a"))
        await eventually(lambda: calls == 1)
        assert (await second.ask("/a")).body == b"answer 2"
        fail.set()
        assert (await failing).status == 503
        assert (await second.ask("/a")).body == b"answer 2"
    assert (cache.stored, cache.shared) == (1, 1)


async def test_a_change_while_one_is_made_that_nobody_waits_for() -> None:
    """What was begun before the change is not kept."""
    shop = Shop(cache := Cache(clock=Clock()))
    async with serving(shop.app) as asker, serving(shop.app) as other:
        shop.status = 503
        await asker.ask("/a")
        shop.status = 200
        shop.go.clear()
        making = asyncio.create_task(other.ask("/a"))
        await eventually(lambda: shop.calls == 2)
        cache.invalidate("/a")
        shop.go.set()
        assert (await making).body == b"GET 2"
        assert (await asker.ask("/a")).body == b"GET 3"


async def test_json_and_messagepack_are_told_apart() -> None:
    """A client that prefers MessagePack neither gets the JSON that is kept, nor keeps it from being kept."""
    app: App[Any] = App(middleware=[Cache()])

    @app.get("/a")
    async def numbers() -> dict[str, int]:
        return {"a": 1}

    async with serving(app) as asker:
        for _ in range(2):
            packed = await asker.ask("/a", ("accept", "application/msgpack"))
            assert packed.body == b"\x81\xa1a\x01"
            plain = await asker.ask("/a", ("accept", "application/json, application/msgpack"))
            assert plain.body == b'{"a":1}'
        assert plain.headers["cache-status"].startswith("forebay; hit")


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"expires": "0"}, False),
        ({"expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, False),
        ({"expires": "Fri, 31 Dec 9999 23:59:59 GMT"}, True),
        ({"expires": "0", "cache-control": "max-age=60"}, True),
        ({"expires": "0", "cache-control": "public"}, False),
    ],
)
async def test_an_answer_may_say_until_when(headers: dict[str, str], kept: bool) -> None:
    """Behind max-age, before the ttl; what is no date is in the past (RFC 9111 section 5.3)."""
    shop = Shop(cache := Cache(clock=Clock()))
    shop.headers = headers
    async with serving(shop.app) as asker:
        await asker.ask("/a")
    assert cache.stored == kept


async def test_the_age_is_said_once() -> None:
    """That which an answer had when it was kept is part of it."""
    clock = Clock()
    shop = Shop(Cache(ttl=10, clock=clock))
    shop.headers = {"age": "3"}
    async with serving(shop.app) as asker:
        await asker.ask("/a")
        clock.now += 2
        await asker.client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n")
        head = await asker.client.reader.readuntil(b"\r\n\r\n")
    assert [line for line in head.split(b"\r\n") if line.startswith(b"age:")] == [b"age: 5"]


@pytest.mark.parametrize("said", ["private", "max-age=0"])
async def test_a_response_that_is_sent_again_and_again(said: str) -> None:
    """What is said of one request does not pile up on what the handler has made once."""
    app: App[Any] = App(middleware=[Cache()])
    made = Response("x", headers={"cache-control": said})
    app.get("/a")(lambda: made)
    async with serving(app) as asker:
        for _ in range(3):
            assert (await asker.ask("/a")).headers["cache-status"].startswith("forebay; fwd=")
    assert "cache-status" not in made.headers


async def test_the_size_of_a_key_that_is_a_tuple_counts() -> None:
    """Else what clients put in it would be beside the bound."""
    shop = Shop(cache := Cache(key=lambda request: (1, ("x" * 5000,)), clock=Clock()))
    async with serving(shop.app) as asker:
        await asker.ask("/a")
    assert cache.statistics()["bytes"] > 5000


async def test_whose_own_may_be_kept_apart() -> None:
    """By the header itself, or by a key that says whose it is; a key of None is not for the cache."""
    by_header = Shop(Cache(vary=["authorization"], clock=Clock()))
    by_key = Shop(Cache(key=lambda request: request.identity, clock=Clock()))
    for shop, name in ((by_header, "authorization"), (by_key, "x-user")):
        async with serving(shop.app) as asker:
            seen = [(await asker.ask("/a", (name, user))).body for user in ("ann", "bob", "ann")]
            assert seen == [b"GET 1", b"GET 2", b"GET 1"]
    async with serving(by_key.app) as asker:
        assert [(await asker.ask("/a")).body for _ in range(2)] == [b"GET 3", b"GET 4"]


async def many(stack: AsyncExitStack, shop: Shop, count: int) -> list[RawClient]:
    """As many clients that have asked for the same."""
    server = await stack.enter_async_context(running(HTTPServer(shop.app, bind="http://127.0.0.1:0")))
    clients = [await stack.enter_async_context(raw_client(server.addresses[0].port)) for _ in range(count)]
    for client in clients:
        await client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n")
    return clients


async def test_a_hundred_at_once_ask_the_handler_once() -> None:
    """All get the one answer."""
    shop = Shop(cache := Cache())
    shop.go.clear()
    async with AsyncExitStack() as stack:
        clients = await many(stack, shop, 100)
        await eventually(lambda: cache.shared == 99)
        shop.go.set()
        assert {(await client.response())[2] for client in clients} == {b"GET 1"}
    assert (shop.calls, cache.misses, cache.hits) == (1, 1, 99)


async def test_the_first_may_leave() -> None:
    """Another one takes over; the handler was called twice, and nobody else waits for nothing."""
    shop = Shop(cache := Cache())
    shop.go.clear()
    async with AsyncExitStack() as stack:
        clients = await many(stack, shop, 1)
        await eventually(lambda: shop.calls == 1)
        port = clients[0].writer.get_extra_info("peername")[1]
        others = [await stack.enter_async_context(raw_client(port)) for _ in range(5)]
        for client in others:
            await client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n")
        await eventually(lambda: cache.shared == 5)
        clients[0].abort()
        await eventually(lambda: shop.calls == 2)
        shop.go.set()
        assert {(await client.response())[2] for client in others} == {b"GET 2"}


async def test_what_cannot_be_shared_is_asked_for_by_each() -> None:
    """The answer is private: each gets its own, and later ones do not wait for each other."""
    shop = Shop(cache := Cache())
    shop.headers = {"cache-control": "private"}
    shop.go.clear()
    async with AsyncExitStack() as stack:
        clients = await many(stack, shop, 10)
        await eventually(lambda: cache.shared == 9)
        shop.go.set()
        assert len({(await client.response())[2] for client in clients}) == 10
        shop.go.clear()
        for client in clients:
            await client.send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n")
        await eventually(lambda: shop.calls == 20)
        shop.go.set()
        assert len({(await client.response())[2] for client in clients}) == 10


async def test_a_change_forgets_what_is_kept() -> None:
    """A POST that succeeds, for all queries of the path and for what is being made; one that fails does not."""
    shop = Shop(cache := Cache())
    async with serving(shop.app) as asker:
        await asker.ask("/a?1")
        await asker.ask("/b")
        shop.status = 500
        await asker.ask("/a", method="POST", body=b"x")
        shop.status = 200
        assert (await asker.ask("/a?1")).body == b"GET 1"
        await asker.ask("/a", method="POST", body=b"x")
        assert (await asker.ask("/a?1")).body == b"GET 5"
        assert (await asker.ask("/b")).body == b"GET 2"
        assert cache.invalidate("/b") == 1
        assert (await asker.ask("/b")).body == b"GET 6"
        cache.clear()
        assert (await asker.ask("/b")).body == b"GET 7"
        shop.go.clear()
        async with serving(shop.app) as other:
            making = asyncio.create_task(other.ask("/c"))
            await eventually(lambda: shop.calls == 8)
            cache.invalidate("/c")
            shop.go.set()
            assert (await making).body == b"GET 8"
        assert (await asker.ask("/c")).body == b"GET 9"


async def test_streams_are_kept_if_they_are_short() -> None:
    """A short one is there the next time; a long one is passed on whole and not kept; events never are."""
    shop = Shop(cache := Cache(max_body=1000))
    async with serving(shop.app) as asker:
        assert [(await asker.ask("/stream")).body for _ in range(2)] == [b"stream 1"] * 2
        long = [(await asker.ask("/stream/long")).body for _ in range(2)]
        assert [body[-2:] for body in long] == [b"x2", b"x3"]
        shop.headers = {"content-type": "text/event-stream"}
        assert [(await asker.ask("/stream/events")).body for _ in range(2)] == [b"stream 4", b"stream 5"]
        shop.headers = {}
        await asker.ask("/stream/head", method="HEAD")
        assert (await asker.ask("/stream/head")).body == b"stream 7"
    assert cache.stored == 2


async def test_the_size_is_bounded() -> None:
    """The one that was asked for the longest ago makes room, and the bytes add up."""
    shop = Shop(cache := Cache(size=3000, max_body=1000))
    async with serving(shop.app) as asker:
        for n in range(50):
            await asker.ask(f"/{n}")
            await asker.ask("/0")
        statistics = cache.statistics()
        assert 0 < statistics["bytes"] <= 3000
        assert 1 < statistics["entries"] < 6
        calls = shop.calls
        await asker.ask("/0")
        await asker.ask("/49")
        assert shop.calls == calls
        cache.clear()
    assert (cache.statistics()["bytes"], cache.statistics()["entries"]) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"size": 10},
        {"max_body": 0},
        {"vary": "accept"},
        {"vary": ["a b"]},
        {"name": "a b"},
        {"patience": 0},
    ],
)
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """Says what would be right."""
    with pytest.raises(ValueError, match="must be"):
        Cache(**options)
