"""A client's cache, against a real server that counts what it is asked."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.chain import Handler
from forebay.errors import ConnectFailed, UpstreamError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.client.auth import Bearer
from forebay.http.client.cache import Cache, Outcome
from forebay.http.client.cache_store import CachedAnswer, MemoryStore
from forebay.http.client.client import Client
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from tests.http.client.kit import Peer, at_rest, playing
from tests.support import eventually, running


class Clock:
    """Time that is set: seconds since the epoch. It is behind the server's, whose dates make no answer older then."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Origin:
    """A server that answers its number, with the headers that it is told, and a 304 where its ``etag`` is known."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.headers: dict[str, str] = {}
        self.status = 200
        self.content: Callable[[int], Any] = lambda number: f"answer {number}"
        self.wait = asyncio.Event()
        self.wait.set()
        self.app: App[Any] = App()
        self.app.route("/{path:path}", ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"))(self.answer)

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self.asked)

    async def answer(self, request: Request, path: str) -> Response:
        """Answer one."""
        self.asked.append(request)
        number = self.count
        if request.method != "POST":
            await self.wait.wait()
        if self.headers.get("etag", "none") == request.headers.get("if-none-match"):
            return Response("", status=304, headers=self.headers)
        return Response(self.content(number), status=self.status, headers=self.headers)


class Asker:
    """A client with a cache, and the origin it asks."""

    def __init__(self, url: str, client: Client, cache: Cache, origin: Origin, clock: Clock) -> None:
        self.url = url
        self.client = client
        self.cache = cache
        self.origin = origin
        self.clock = clock

    async def get(self, path: str = "/a", method: str = "GET", **headers: str) -> tuple[str, str, ClientResponse]:
        """Its content, what the cache did, and the response."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.client.request(method, path, headers=fields)
        return await response.text(), str(response.request.state["cache"]), response

    async def twice(self, **headers: str) -> tuple[str, str]:
        """What the cache did for two requests."""
        return (await self.get(**headers))[1], (await self.get(**headers))[1]


@asynccontextmanager
async def asking(origin: Origin | None = None, *, options: Any = None, **headers: str) -> AsyncIterator[Asker]:
    """Ask a server that answers with ``headers``."""
    origin = origin or Origin()
    origin.headers = {name.replace("_", "-"): value for name, value in headers.items()}
    clock = Clock()
    async with (
        running(HTTPServer(origin.app, bind="http://127.0.0.1:0")) as server,
        Cache(clock=clock, **(options or {})) as cache,
        Client(url := f"http://127.0.0.1:{server.addresses[0].port}", middleware=[cache]) as client,
    ):
        yield Asker(url, client, cache, origin, clock)


async def test_an_answer_is_given_again_while_it_is_fresh() -> None:
    """With its age, and all that it came with; then the server is asked again (RFC 9111 section 4.2)."""
    async with asking(cache_control="max-age=100", x_own="1") as asker:
        first, outcome, response = await asker.get()
        assert (first, outcome, "age" in response.headers) == ("answer 1", "miss", False)
        asker.clock.now += 40
        again, outcome, response = await asker.get()
        assert (again, outcome, response.status, response.reason) == ("answer 1", "hit", 200, "OK")
        assert response.headers["age"] == "40"
        assert response.headers.get_all("x-own") == ["1"]
        assert response.headers["content-length"] == "8"
        asker.clock.now += 60
        assert (await asker.get())[:2] == ("answer 2", "miss")
        assert asker.origin.count == 2
        statistics = asker.cache.statistics()
        assert (statistics["hit"], statistics["miss"], statistics["stored"], statistics["entries"]) == (1, 2, 2, 1)


async def test_each_url_and_query_has_its_own() -> None:
    """And the fragment is none of it (RFC 9111 section 2)."""
    async with asking(cache_control="max-age=100") as asker:
        contents = [(await asker.get(path))[0] for path in ("/a", "/b", "/a?x=1", "/a?x=2", "/a", "/a?x=1")]
        assert contents == ["answer 1", "answer 2", "answer 3", "answer 4", "answer 1", "answer 3"]


@pytest.mark.parametrize(
    "headers",
    [
        {"cache_control": "no-store"},
        {"cache_control": "max-age=100", "vary": "*"},
        {},
        {"cache_control": "max-age=0"},
        {"cache_control": "max-age=100", "content_type": "text/event-stream"},
        {"cache_control": "max-age=100", "age": "100"},
    ],
)
async def test_what_is_asked_for_each_time(headers: dict[str, Any]) -> None:
    """What may not be kept, or is never fresh."""
    async with asking(**headers) as asker:
        assert await asker.twice() == ("miss", "miss")


async def test_requests_that_are_none_for_a_cache() -> None:
    """With content, ``no-store``, or another safe method; nothing of it is kept."""
    async with asking(cache_control="max-age=100") as asker:
        assert await asker.twice(cache_control="no-store") == ("bypass", "bypass")
        assert (await asker.get(method="OPTIONS"))[1] == "bypass"
        response = await asker.client.get("/a", content=b"x")
        await response.read()
        assert response.request.state["cache"] is Outcome.BYPASS
        assert (await asker.get())[1] == "miss"


async def test_vary_tells_answers_apart() -> None:
    """RFC 9111 section 4.1; several are kept at once."""
    async with asking(cache_control="max-age=100", vary="Accept-Language, x-other") as asker:
        asked = [("de", ""), ("en", ""), ("de", ""), ("en", ""), ("en", "1"), ("en", "1")]
        outcomes = []
        for language, other in asked:
            headers = {"accept_language": language} | ({"x_other": other} if other else {})
            outcomes.append((await asker.get(**headers))[:2])
        assert outcomes == [
            ("answer 1", "miss"), ("answer 2", "miss"), ("answer 1", "hit"), ("answer 2", "hit"),
            ("answer 3", "miss"), ("answer 3", "hit"),
        ]  # fmt: skip


async def test_a_304_makes_it_fresh_again() -> None:
    """RFC 9111 sections 4.3.1 and 4.3.4: asked with both validators, and its headers are the new ones."""
    modified = formatdate(1_600_000_000, usegmt=True)
    async with asking(cache_control="max-age=100", etag='"a"', last_modified=modified, x_own="old") as asker:
        await asker.get()
        asker.clock.now += 200
        asker.origin.headers["x-own"] = "new"
        content, outcome, response = await asker.get()
        assert (content, outcome, response.status) == ("answer 1", "revalidated", 200)
        assert (response.headers["x-own"], response.headers["content-length"]) == ("new", "8")
        assert asker.origin.asked[1].headers["if-none-match"] == '"a"'
        assert asker.origin.asked[1].headers["if-modified-since"] == modified
        assert "if-none-match" not in response.request.headers
        await at_rest(asker.client)


async def test_what_has_changed_replaces_what_was_kept() -> None:
    """A 200 to the conditions."""
    async with asking(cache_control="no-cache", etag='"a"') as asker:
        assert (await asker.get())[:2] == ("answer 1", "miss")
        assert (await asker.get())[:2] == ("answer 1", "revalidated")
        asker.origin.headers["etag"] = '"b"'
        assert (await asker.get())[:2] == ("answer 3", "miss")
        assert (await asker.get())[:2] == ("answer 3", "revalidated")


async def test_a_304_about_something_else() -> None:
    """The answer is asked for again, whole (RFC 9111 section 4.3.4): nothing is made up of two."""

    async def play(peer: Peer) -> None:
        number = 0
        while (asked := await peer.asked()) is not None:
            number += 1
            if "if-none-match" in asked.headers:
                await peer.say(b'HTTP/1.1 304 X\r\nETag: "other"\r\n\r\n')
            else:
                await peer.answer(b"%d" % number, headers=f'ETag: "{number}"\r\nCache-Control: no-cache\r\n')

    async with playing(play) as server, Cache() as cache, Client(server.url, middleware=[cache]) as client:
        assert [await (await client.get("/")).text() for _ in range(2)] == ["1", "3"]


async def test_conditions_of_the_program_are_judged_here() -> None:
    """RFC 9111 section 4.3.2: of a fresh answer; else the server judges them, and its 304 is the program's."""
    modified = formatdate(1_600_000_000, usegmt=True)
    async with asking(cache_control="max-age=100", etag='"a"', last_modified=modified) as asker:
        await asker.get()
        content, outcome, response = await asker.get(if_none_match='"x", W/"a"')
        assert (content, outcome, response.status, response.headers["etag"]) == ("", "hit", 304, '"a"')
        assert (await asker.get(if_modified_since=modified))[2].status == 304
        assert (await asker.get(if_none_match='"x"'))[:2] == ("answer 1", "hit")
        assert asker.origin.count == 1
        asker.clock.now += 200
        _, outcome, response = await asker.get(if_none_match='"a"')
        assert (outcome, response.status, asker.origin.count) == ("miss", 304, 2)
        assert (await asker.get())[:2] == ("answer 1", "hit"), "that 304 was about what is kept"


async def test_ranges_and_conditions_for_the_server_go_to_it() -> None:
    """And a 206 is not kept (RFC 9111 section 3.3)."""
    async with asking(cache_control="max-age=100", etag='"a"') as asker:
        await asker.get()
        for name in ("range", "if_match", "if_range", "if_unmodified_since"):
            count = asker.origin.count
            assert (await asker.get(**{name: "bytes=0-1"}))[1] == "miss"
            assert asker.origin.count == count + 1
        asker.origin.status = 206
        asker.origin.headers["content-range"] = "bytes 0-7/80"
        await asker.get("/part", range="bytes=0-7")
        asker.origin.status = 200
        assert (await asker.get("/part"))[1] == "miss"


async def test_only_if_cached() -> None:
    """RFC 9111 section 5.2.1.7: what is there, or 504; the server is not asked."""
    async with asking(cache_control="max-age=100") as asker:
        content, outcome, response = await asker.get(cache_control="only-if-cached")
        assert (content, outcome, response.status) == ("", "refused", 504)
        await asker.get()
        assert (await asker.get(cache_control="only-if-cached"))[:2] == ("answer 1", "hit")
        asker.clock.now += 200
        assert (await asker.get(cache_control="only-if-cached"))[1] == "refused"
        assert (await asker.get(cache_control="only-if-cached, max-stale"))[:2] == ("answer 1", "stale")
        assert asker.origin.count == 1


async def test_head_is_answered_by_get_and_brings_it_up_to_date() -> None:
    """RFC 9111 section 4.3.5: without content; one that differs means that what is kept does not hold."""
    async with asking(cache_control="max-age=100", etag='"a"') as asker:
        await asker.get()
        content, outcome, response = await asker.get(method="HEAD")
        assert (content, outcome, response.headers["content-length"]) == ("", "hit", "8")
        asker.clock.now += 200
        assert (await asker.get(method="HEAD"))[1] == "miss"
        assert (await asker.get())[:2] == ("answer 1", "hit")
        asker.clock.now += 200
        asker.origin.headers["etag"] = '"b"'
        assert (await asker.get(method="HEAD"))[1] == "miss"
        assert (await asker.get())[:2] == ("answer 4", "miss")


@pytest.mark.parametrize(
    ("method", "status", "location", "forgotten"),
    [
        pytest.param("POST", 200, {}, {"/a"}, id="4.4 its URL"),
        pytest.param("PUT", 204, {}, {"/a"}, id="4.4 PUT"),
        pytest.param("DELETE", 302, {}, {"/a"}, id="4.4 a redirect"),
        pytest.param("POST", 404, {}, set(), id="4.4 not by an error"),
        pytest.param("POST", 500, {}, set(), id="4.4 not by a failure"),
        pytest.param("OPTIONS", 200, {}, set(), id="4.4 not by a safe method"),
        pytest.param("POST", 201, {"location": "/b"}, {"/a", "/b"}, id="4.4 location"),
        pytest.param("POST", 200, {"content-location": "b"}, {"/a", "/b"}, id="4.4 content-location"),
        pytest.param("POST", 201, {"location": "http://127.0.0.1:1/b"}, {"/a"}, id="4.4 not of another origin"),
        pytest.param("POST", 201, {"location": "http://["}, {"/a"}, id="4.4 a location that is none"),
    ],
)
async def test_what_a_change_forgets(method: str, status: int, location: dict[str, str], forgotten: set[str]) -> None:
    """RFC 9111 section 4.4."""
    async with asking(cache_control="max-age=100") as asker:
        await asker.get("/a")
        await asker.get("/b")
        asker.origin.status = status
        asker.origin.headers |= location
        response = await asker.client.request(method, "/a", redirects=False)
        await response.read()
        asker.origin.status = 200
        for name in location:
            del asker.origin.headers[name]
        assert {path for path in ("/a", "/b") if (await asker.get(path))[1] == "miss"} == forgotten


async def test_no_server_has_answers_of_another_forgotten() -> None:
    """RFC 9111 section 4.4: whatever it says in ``location`` and ``content-location``."""
    async with (
        asking(cache_control="max-age=100") as asker,
        asking(cache_control="max-age=100") as other,
        Client(middleware=[asker.cache], redirects=False) as client,
    ):
        for outcome in ("miss", "hit"):
            response = await client.get(f"{other.url}/b")
            await response.read()
            assert response.request.state["cache"] == outcome
            asker.origin.status = 201
            asker.origin.headers |= {"location": f"{other.url}/b", "content-location": f"{other.url}/b"}
            await (await client.post(f"{asker.url}/a")).read()


async def test_what_was_on_its_way_during_a_change_is_not_kept() -> None:
    """It may be from before."""
    async with asking(cache_control="max-age=100") as asker:
        asker.origin.wait.clear()
        first = asyncio.ensure_future(asker.get())
        await eventually(lambda: asker.origin.count == 1)
        await (await asker.client.post("/a")).read()
        asker.origin.wait.set()
        assert (await first)[:2] == ("answer 1", "miss")
        assert (await asker.get())[:2] == ("answer 3", "miss")
        assert (await asker.get())[:2] == ("answer 3", "hit")


# -- failures, and what is done behind the scenes


async def test_an_old_answer_for_a_failure() -> None:
    """RFC 5861 section 4: for a 5xx, and where there is no connection; not where nobody allowed it."""
    async with asking(cache_control="max-age=10, stale-if-error=100") as asker:
        await asker.get()
        asker.clock.now += 50
        asker.origin.status = 503
        content, outcome, response = await asker.get()
        assert (content, outcome, response.status) == ("answer 1", "stale-if-error", 200)
        asker.clock.now += 100
        assert (await asker.get())[2].status == 503
        await at_rest(asker.client)

    class Broken:
        broken = False

        async def __call__(self, request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]) -> Any:
            if self.broken:
                raise ConnectFailed("it is down")
            return await call_next(request)

    async with asking(cache_control="max-age=10", options={"stale_if_error": 60.0}) as asker:
        broken = Broken()
        async with Client(asker.url, middleware=[asker.cache, broken]) as client:
            await (await client.get("/a")).read()
            broken.broken = True
            asker.clock.now += 50
            response = await client.get("/a")
            assert (await response.text(), response.request.state["cache"]) == ("answer 1", "stale-if-error")
            asker.clock.now += 50
            with pytest.raises(ConnectFailed):
                await client.get("/a")


async def test_it_is_refreshed_behind_the_scenes() -> None:
    """RFC 5861 section 3: the old one is given at once, and one request is made for all who ask meanwhile."""
    async with asking(cache_control="max-age=10, stale-while-revalidate=100") as asker:
        await asker.get()
        asker.clock.now += 20
        asker.origin.wait.clear()
        for _ in range(5):
            assert (await asker.get())[:2] == ("answer 1", "stale")
        await eventually(lambda: asker.origin.count == 2)
        asker.origin.wait.set()
        await eventually(lambda: asker.cache.statistics()["stored"] == 2)
        assert (await asker.get())[:2] == ("answer 2", "hit")
        statistics = asker.cache.statistics()
        assert (statistics["refreshes"], statistics["stale"], statistics["miss"], asker.origin.count) == (1, 5, 1, 2)
        await at_rest(asker.client)


async def test_a_refresh_that_fails_is_logged_and_one_under_way_ends_with_the_cache() -> None:
    """The old answer stays; nothing runs on after ``close``."""
    async with asking(
        cache_control="max-age=10, stale-while-revalidate=100", options={"refresh_timeout": 0.05}
    ) as asker:
        await asker.get()
        asker.clock.now += 20
        asker.origin.wait.clear()
        with capture_logs() as logs:
            await asker.get()
            await eventually(lambda: [one for one in logs if one["event"].startswith("refresh failed")])
        assert (await asker.get())[:2] == ("answer 1", "stale")
        await at_rest(asker.client)
    async with asking(cache_control="max-age=10, stale-while-revalidate=100") as asker:
        await asker.get()
        asker.clock.now += 20
        asker.origin.wait.clear()
        await asker.get()
        await eventually(lambda: asker.origin.count == 2)
        await asker.cache.close()
        await at_rest(asker.client)
        assert (await asker.get())[:2] == ("answer 1", "stale")
        asker.origin.wait.set()


# -- content


async def test_streamed_content_is_kept_while_it_is_read() -> None:
    """Not before its end, and not if it is left; it comes as it would without a cache."""
    origin, more = Origin(), asyncio.Event()

    async def pieces(number: int) -> AsyncIterator[str]:
        yield f"begin {number} "
        await more.wait()
        yield "end"

    origin.content = pieces
    async with asking(origin, cache_control="max-age=100") as asker:
        async with asker.client.get("/a") as response:
            assert [piece async for piece in _first(response)] == [b"begin 1 "]
        await at_rest(asker.client)
        assert asker.cache.statistics()["stored"] == 0
        async with asker.client.get("/a") as response:
            taken = response.stream()
            assert await anext(taken) == b"begin 2 "
            assert asker.cache.statistics()["stored"] == 0
            more.set()
            assert b"".join([piece async for piece in taken]) == b"end"
        assert asker.cache.statistics()["stored"] == 1
        assert (await asker.get())[:2] == ("begin 2 end", "hit")


async def _first(response: ClientResponse) -> AsyncIterator[bytes]:
    async for piece in response.stream():
        yield piece
        return


async def test_content_that_breaks_off_is_not_kept() -> None:
    """Whoever reads it hears of it; the next one asks anew."""
    answers = [b"HTTP/1.1 200 X\r\nCache-Control: max-age=9\r\nContent-Length: 300000\r\n\r\n" + b"x" * 299_999]
    answers.append(b"HTTP/1.1 200 X\r\nCache-Control: max-age=9\r\nContent-Length: 2\r\n\r\nok")

    async def play(peer: Peer) -> None:
        if await peer.asked() is not None:
            await peer.say(answers.pop(0))

    async with playing(play) as server, Cache() as cache, Client(server.url, middleware=[cache]) as client:
        response = await client.get("/")
        with pytest.raises(UpstreamError):
            await response.read()
        assert cache.statistics()["stored"] == 0
        assert await (await client.get("/")).text() == "ok"


async def test_a_response_that_is_forgotten_gives_its_connection_back() -> None:
    """And is reported, though the cache stands between."""
    origin, never = Origin(), asyncio.Event()

    async def pieces(_: int) -> AsyncIterator[bytes]:
        yield b"begin"
        await never.wait()

    origin.content = pieces
    async with asking(origin, cache_control="max-age=100") as asker:
        with capture_logs() as logs:
            await asker.client.get("/a")
            gc.collect()
            await eventually(lambda: [one for one in logs if one["event"] == "response forgotten"])
        await at_rest(asker.client)
    (forgotten,) = [one for one in logs if one["event"] == "response forgotten"]
    assert "test_cache.py" in forgotten["at"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_content_past_the_bound_is_given_and_not_kept(streamed: bool) -> None:
    """Whether its length is said before or not."""
    origin = Origin()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100_000

    origin.content = lambda _: pieces() if streamed else b"x" * 1_100_000
    async with asking(origin, options={"max_entry": 1_000_000}, cache_control="max-age=100") as asker:
        for _ in range(2):
            content, outcome, _ = await asker.get()
            assert (len(content), outcome) == (1_100_000, "miss")
        assert asker.cache.statistics()["entries"] == 0
        await at_rest(asker.client)


@pytest.mark.parametrize("size", [1000, 2_000_000])
async def test_compressed_content_is_kept_compressed(size: int) -> None:
    """And given again decompressed, with the headers that it came with."""
    origin, text = Origin(), "0123456789" * (size // 10)
    origin.content = lambda _: gzip.compress(text.encode())
    async with asking(origin, cache_control="max-age=100", content_encoding="gzip", vary="accept-encoding") as asker:
        for outcome in ("miss", "hit", "hit"):
            content, became, response = await asker.get()
            assert (content == text, became, response.headers["content-encoding"]) == (True, outcome, "gzip")
        assert asker.cache.statistics()["bytes"] < 2000 + size // 10


@pytest.mark.parametrize("status", [203, 204, 300, 301, 308, 404, 410])
async def test_other_statuses_are_kept(status: int) -> None:
    """RFC 9110 section 15.1: with their status."""
    async with asking(cache_control="max-age=100") as asker:
        asker.origin.status = status
        asker.origin.headers["location"] = "http://127.0.0.1:1/"
        for outcome in ("miss", "hit"):
            response = await asker.client.get("/a", redirects=False)
            await response.read()
            assert (response.status, response.request.state["cache"]) == (status, outcome)


# -- who it is for


async def test_other_credentials_get_other_answers() -> None:
    """Though the server does not say that they may differ: one client may speak for several users."""
    async with asking(cache_control="max-age=100") as asker:
        asked = [{}, {"authorization": "a"}, {"authorization": "b"}, {"cookie": "c=1"}]
        contents = [(await asker.get(**headers))[0] for headers in asked * 2]
        assert contents == [f"answer {number}" for number in (1, 2, 3, 4)] * 2
        await (await asker.client.post("/a")).read()
        assert [(await asker.get(**headers))[1] for headers in asked] == ["miss"] * 4


@pytest.mark.parametrize(("said", "outcome"), [("max-age=100", "miss"), ("max-age=100, public", "hit")])
async def test_a_shared_cache_keeps_nothing_of_one_user(said: str, outcome: str) -> None:
    """RFC 9111 section 3.5, also where the credentials are added behind it."""
    async with asking(options={"shared": True}, cache_control=said) as asker:
        assert await asker.twice(authorization="a") == ("miss", outcome)
        async with Client(asker.url, middleware=[asker.cache], auth=Bearer("t")) as client:
            for expected in ("miss", outcome):
                response = await client.get("/b")
                await response.read()
                assert response.request.state["cache"] == expected


async def test_what_varies_by_something_added_behind_it_is_not_kept() -> None:
    """Nobody knows it before the request is sent: cookies of the jar, credentials of ``auth``."""
    async with (
        asking(cache_control="max-age=100", vary="authorization") as asker,
        Client(asker.url, middleware=[asker.cache], auth=Bearer("t")) as client,
    ):
        for _ in range(2):
            response = await client.get("/a")
            await response.read()
            assert response.request.state["cache"] == "miss"


async def test_credentials_that_are_added_behind_it_tell_answers_apart() -> None:
    """One client speaks for several users by ``auth=``, and by URLs: nobody gets what another one was answered."""
    origin = Origin()
    async with asking(origin, cache_control="max-age=100") as asker:
        url = asker.url.replace("http://", "http://{}@")
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/me", {"auth": ("alice", "1")}), ("/me", {"auth": ("bob", "2")}), ("/me", {}),
            (f"{url.format('alice:1')}/a", {}), (f"{url.format('bob:2')}/a", {}), ("/a", {}),
        ]  # fmt: skip
        contents = []
        for place, options in asked:
            contents.append(await (await asker.client.get(place, **options)).text())
        assert contents == [f"answer {number}" for number in range(1, 7)]
        origin.headers["cache-control"] = "max-age=100, private, must-revalidate"
        for user in ("alice", "bob"):
            response = await asker.client.get("/private", auth=(user, "1"))
            await response.read()
            assert response.request.state["cache"] == "miss"


async def test_credentials_that_are_added_before_it_let_it_keep_what_is_for_one() -> None:
    """Each has its own; those with a name like a secret's count as well."""
    async with asking(cache_control="max-age=100") as asker:
        contents = []
        for token in ("alice", "bob", "alice", "bob"):
            async with Client(asker.url, middleware=[Bearer(token), asker.cache]) as client:
                contents.append(await (await client.get("/me")).text())
        assert contents == ["answer 1", "answer 2", "answer 1", "answer 2"]
        keys = [(await asker.get(x_api_key=key))[0] for key in ("alice", "bob", "alice", "bob")]
        assert keys == ["answer 3", "answer 4", "answer 3", "answer 4"]


async def test_another_host_is_another_place() -> None:
    """RFC 9111 section 2: ``host`` is part of the URI that is asked for, and so is the socket; a change of one is none
    of the other."""
    async with asking(cache_control="max-age=100") as asker:
        hosts = [{"host": "a.test"}, {"host": "b.test"}, {}]
        assert [(await asker.get(**host))[0] for host in hosts * 2] == ["answer 1", "answer 2", "answer 3"] * 2
        await (await asker.client.post("/a", headers={"host": "a.test"})).read()
        assert [(await asker.get(**host))[1] for host in hosts] == ["miss", "hit", "hit"]


async def test_another_socket_is_another_place(tmp_path: Path) -> None:
    """Both are called ``http://localhost``."""

    def app(name: str) -> App[Any]:
        made: App[Any] = App()

        @made.get("/")
        async def answer() -> Response:
            return Response(name, headers={"cache-control": "max-age=100"})

        return made

    one, two = (f"unix://{tmp_path}/{name}.sock" for name in ("one", "two"))
    async with (
        running(HTTPServer(app("one"), bind=one)),
        running(HTTPServer(app("two"), bind=two)),
        Cache() as cache,
        Client(one, middleware=[cache]) as first,
        Client(two, middleware=[cache]) as second,
    ):
        assert [await (await client.get("/")).text() for client in (first, second, first)] == ["one", "two", "one"]
    assert cache.statistics()["hit"] == 1


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (True, {"set-cookie": "session=alice"}),
        (True, {"cache-control": "max-age=100, private"}),
        (False, {"cache-control": "no-store"}),
        (False, {"vary": "*"}),
    ],
)
async def test_a_304_may_forbid_to_keep_it_longer(shared: bool, said: dict[str, str]) -> None:
    """RFC 9111 section 3.2: its headers are those of the answer from then on, as if they had come with it; so nobody
    gets the cookies of another."""
    async with asking(cache_control="max-age=100", etag='"a"', options={"shared": shared}) as asker:
        await asker.get()
        asker.clock.now += 200
        asker.origin.headers |= said
        assert (await asker.get())[:2] == ("answer 1", "revalidated")
        for name in said:
            asker.origin.headers.pop(name)
        content, outcome, response = await asker.get()
        assert (content, outcome, response.cookies) == ("answer 3", "miss", {})


async def test_a_304_may_say_that_it_varies() -> None:
    """RFC 9111 section 4.1: by something else than it did before."""
    async with asking(cache_control="max-age=100", etag='"a"') as asker:
        await asker.get(accept_language="de")
        asker.clock.now += 200
        asker.origin.headers["vary"] = "accept-language"
        assert (await asker.get(accept_language="de"))[1] == "revalidated"
        asker.origin.headers["etag"] = '"b"'
        assert (await asker.get(accept_language="en"))[0] != "answer 1"
        assert (await asker.get(accept_language="de"))[:2] == ("answer 1", "hit")


async def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    """It was asked for before, and took longer to come."""
    origin, more = Origin(), asyncio.Event()

    async def pieces(number: int) -> AsyncIterator[str]:
        yield f"begin {number} "
        if number == 1:
            await more.wait()
        yield "end"

    origin.content = pieces
    async with asking(origin, cache_control="max-age=100") as asker:
        async with asker.client.get("/a") as response:
            taken = response.stream()
            assert await anext(taken) == b"begin 1 "
            assert (await asker.get())[:2] == ("begin 2 end", "miss")
            more.set()
            assert b"".join([piece async for piece in taken]) == b"end"
        assert (await asker.get())[:2] == ("begin 2 end", "hit")


async def test_an_older_304_does_not_replace_a_newer_answer() -> None:
    """It says that what was kept holds, which it did then."""
    go = asyncio.Event()
    arrived = asyncio.Event()

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            if "if-none-match" not in asked.headers:
                await peer.answer(b"1", headers='ETag: "1"\r\nCache-Control: no-cache\r\n')
            elif not arrived.is_set():
                arrived.set()
                await go.wait()
                await peer.say(b'HTTP/1.1 304 X\r\nETag: "1"\r\nCache-Control: max-age=100\r\n\r\n')
            else:
                await peer.answer(b"2", headers='ETag: "2"\r\nCache-Control: max-age=100\r\n')

    async with playing(play) as server, Cache() as cache, Client(server.url, middleware=[cache]) as client:

        async def text() -> str:
            return await (await client.get("/")).text()

        assert await text() == "1"
        slow = asyncio.ensure_future(text())
        await arrived.wait()
        assert await text() == "2"
        go.set()
        assert (await slow, await text()) == ("1", "2")
        assert cache.statistics()["hit"] == 1


async def test_a_clock_that_is_set_back_makes_nothing_younger() -> None:
    """How old it is nobody knows then, so the server is asked; what a time server corrects does not count."""
    async with asking(cache_control="max-age=100") as asker:
        asker.clock.now += 50_000
        await asker.get()
        asker.clock.now -= 1
        _, outcome, response = await asker.get()
        assert (outcome, response.headers["age"]) == ("hit", "0")
        asker.clock.now -= 40_000
        assert (await asker.get())[:2] == ("answer 2", "miss")


@pytest.mark.parametrize("asked", [{"method": "HEAD"}, {"if_none_match": '"a"'}, {"if_modified_since": "x"}])
async def test_what_is_refreshed_is_the_whole(asked: dict[str, str]) -> None:
    """Whatever the request was that made it happen: another method, or conditions of the program."""
    async with asking(cache_control="max-age=10, stale-while-revalidate=1000") as asker:
        await asker.get()
        asker.clock.now += 20
        assert (await asker.get(**asked))[1] == "stale"
        await eventually(lambda: asker.cache.statistics()["stored"] == 2)
        assert (await asker.get())[:2] == ("answer 2", "hit")
        assert asker.origin.asked[1].method == "GET"
        assert not {"if-none-match", "if-modified-since"} & set(asker.origin.asked[1].headers)


async def test_a_refresh_has_what_the_program_told_the_middleware() -> None:
    """``request.state`` of who asked, and no secrets of its URL in the log where it fails."""
    seen = []

    async def inner(request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]) -> ClientResponse:
        seen.append(request.state.get("tenant"))
        if len(seen) > 1:
            raise ConnectFailed(f"{request}: it is down")
        return await call_next(request)

    async def outer(request: ClientRequest, call_next: Handler[ClientRequest, ClientResponse]) -> ClientResponse:
        request.state["tenant"] = "t1"
        return await call_next(request)

    async with (
        asking(cache_control="max-age=10, stale-while-revalidate=1000") as asker,
        Client(asker.url, middleware=[outer, asker.cache, inner]) as client,
    ):
        await (await client.get("/a?token=s3cret")).read()
        asker.clock.now += 20
        with capture_logs() as logs:
            await (await client.get("/a?token=s3cret")).read()
            await eventually(lambda: logs)
    assert seen == ["t1", "t1"]
    assert logs[0]["event"].startswith("refresh failed")
    assert "s3cret" not in repr(logs)


async def test_a_change_while_the_store_is_about_it() -> None:
    """What a slow store was told to keep before is forgotten after."""

    class Slow(MemoryStore):
        __slots__ = ("begun", "go")

        def __init__(self) -> None:
            super().__init__()
            self.begun = asyncio.Event()
            self.go = asyncio.Event()

        async def put(self, url: str, owner: str, answer: CachedAnswer) -> None:
            self.begun.set()
            await self.go.wait()
            await super().put(url, owner, answer)

    store = Slow()
    async with asking(cache_control="max-age=100", options={"store": store}) as asker:
        slow = asyncio.ensure_future(asker.get())
        await store.begun.wait()
        await (await asker.client.post("/a")).read()
        store.go.set()
        assert (await slow)[0] == "answer 1"
        assert (await asker.get())[:2] == ("answer 3", "miss")


async def test_tags_that_are_not_ascii_are_sent_back_as_they_came() -> None:
    """RFC 9110 section 8.8.3 allows any octet above 127."""
    tags = []

    async def play(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            tags.append(asked.headers.get("if-none-match"))
            head = b'Cache-Control: no-cache\r\nETag: "\xe9"\r\n'
            if tags[-1] is None:
                await peer.say(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n" + head + b"\r\nok")
            else:
                await peer.say(b"HTTP/1.1 304 X\r\n" + head + b"\r\n")

    async with playing(play) as server, Cache() as cache, Client(server.url, middleware=[cache]) as client:
        assert [await (await client.get("/")).text() for _ in range(2)] == ["ok", "ok"]
    assert tags == [None, '"\xe9"']


async def test_a_cancelled_validation_leaves_all_as_it_was() -> None:
    """The connection goes back or away, and the old answer is still there to be validated."""
    async with asking(cache_control="max-age=10", etag='"a"') as asker:
        await asker.get()
        asker.clock.now += 20
        asker.origin.wait.clear()
        asked = asyncio.ensure_future(asker.get())
        await eventually(lambda: asker.origin.count == 2)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        asker.origin.wait.set()
        await at_rest(asker.client)
        assert (await asker.get())[:2] == ("answer 1", "revalidated")


async def test_one_user_does_not_make_a_shared_cache_forget() -> None:
    """An answer to credentials is not kept, and says nothing of the one for all."""
    async with asking(options={"shared": True}, cache_control="max-age=100") as asker:
        await asker.get()
        assert (await asker.get(authorization="a", cache_control="no-cache"))[1] == "miss"
        assert (await asker.get())[:2] == ("answer 1", "hit")


# -- where it is kept


def answer(size: int, varying: tuple[tuple[str, str | None], ...] = ()) -> CachedAnswer:
    """Of so many bytes, about."""
    return CachedAnswer(200, (), b"x" * size, varying, 0.0, 0.0)


async def test_memory_has_bounds() -> None:
    """The URL that was asked for the longest ago makes room; the account is exact."""
    store = MemoryStore(size=10_000, entries=3)
    for name in ("a", "b", "c"):
        await store.put(name, "", answer(1000))
    assert len(await store.get("a", "")) == 1
    await store.put("d", "", answer(1000))
    assert [len(await store.get(name, "")) for name in "abcd"] == [1, 0, 1, 1]
    await store.put("e", "", answer(6000))
    assert (await store.get("e", ""))[0].size > 6000
    assert store.statistics()["bytes"] <= 10_000
    await store.put("f", "", answer(20_000))
    assert await store.get("f", "") == ()
    for name in "abcdef":
        await store.remove(name)
    assert store.statistics() | {"evicted": 0} == {"entries": 0, "bytes": 0, "evicted": 0}


def test_what_is_kept_is_not_shown() -> None:
    """Neither cookies nor content, in no error and no log."""
    shown = repr(CachedAnswer(200, ((b"set-cookie", b"s3cret"),), b"s3cret", (("cookie", "s3cret"),), 0.0, 0.0))
    assert "s3cret" not in shown
    assert "status=200" in shown


async def test_variants_of_one_url_have_a_bound_and_replace_each_other() -> None:
    """The newest are kept; one of the same kind replaces the old one; all are removed together, whosever they are."""
    store = MemoryStore()
    for number in range(40):
        await store.put("a", "", answer(10, (("accept", str(number)),)))
    found = await store.get("a", "")
    assert [one.varying[0][1] for one in found] == [str(number) for number in range(39, 23, -1)]
    await store.put("a", "", answer(11, (("accept", "30"),)))
    again = await store.get("a", "")
    assert (len(again), len(again[0].content)) == (16, 11)
    await store.put("a", "somebody", answer(10))
    assert await store.remove("a") == 17
    assert (store.statistics()["entries"], store.statistics()["bytes"]) == (0, 0)


async def test_a_store_that_fails_is_passed_over() -> None:
    """The server is asked, and it is logged."""

    class Broken:
        async def get(self, url: str, owner: str) -> Sequence[CachedAnswer]:
            raise OSError("the disk is gone")

        async def put(self, url: str, owner: str, answer: CachedAnswer) -> None:
            raise OSError("the disk is gone")

        async def remove(self, url: str) -> int:
            raise OSError("the disk is gone")

        def statistics(self) -> dict[str, int]:
            return {}

    with capture_logs() as logs:
        async with asking(options={"store": Broken()}, cache_control="max-age=100") as asker:
            assert await asker.twice() == ("miss", "miss")
            await (await asker.client.post("/a")).read()
            assert asker.cache.statistics()["store_errors"] == 5
    assert [one["event"] for one in logs].count("cache store failed") == 1


@pytest.mark.parametrize(
    "options",
    [{"max_entry": 0}, {"heuristic": -0.1}, {"heuristic": 2}, {"stale_if_error": -1}, {"refresh_timeout": 0}],
)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    """They are said at once."""
    with pytest.raises(ValueError, match="Cache"):
        Cache(**options)
    with pytest.raises(ValueError, match="MemoryStore"):
        MemoryStore(size=0)
