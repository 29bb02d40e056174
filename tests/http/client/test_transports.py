"""The transports for tests of what is built on a client: an application, a function, a recording, and faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay import App
from forebay.engine import gather
from forebay.errors import (
    ConnectFailed,
    ContentTooLarge,
    DeadlineExceeded,
    ForebayError,
    ReadTimeout,
    UpstreamClosed,
    UpstreamProtocolError,
)
from forebay.http import Request, Response, WebSocket
from forebay.http.client.client import Client
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits, Timeouts
from forebay.http.client.transport import HTTPTransport
from forebay.policy.retry import Retry
from forebay.testing import (
    AppTransport,
    CassetteError,
    FaultTransport,
    FunctionTransport,
    Recorder,
    RequestFault,
    VirtualClock,
)
from forebay.testing.recorder import RecorderMode
from tests.http.client.kit import Peer, at_rest, nothing_left, playing, pool_of

# -- an application


def shop() -> App[Any]:
    """An application with a handler of each kind."""
    app = App("shop")

    @app.get("/items/{number}")
    def item(number: int) -> dict[str, int]:
        return {"number": number}

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        content = await request.body()

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 10_000):
                yield content[start : start + 10_000]

        return Response(
            pieces(), headers={"x-scheme": request.scheme, "x-client": request.client, "x-host": request.host}
        )

    @app.get("/large")
    def large() -> bytes:
        return b"x" * 101

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError

    @app.get("/moved")
    def moved() -> Response:
        return Response(status=302, headers={"location": "/items/7"})

    @app.get("/endless")
    async def endless() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.Event().wait()

        return Response(pieces())

    @app.get("/never")
    async def never() -> None:
        await asyncio.Event().wait()

    return app


async def test_an_application_answers() -> None:
    """By the client's own connections and the server's, without a socket."""
    transport = AppTransport(shop(), client="10.1.2.3")
    async with nothing_left(), Client("https://shop:8443", transport=transport) as client:
        assert await (await client.get("/items/7")).json() == {"number": 7}
        response = await client.get("/moved")
        assert (response.url.path, len(response.history)) == ("/items/7", 1)
        large = b"x" * 3_000_000
        response = await client.post("/echo", content=large)
        assert await response.read() == large
        assert [response.headers[name] for name in ("x-scheme", "x-client", "x-host")] == [
            "https",
            "10.1.2.3",
            "shop:8443",
        ]
        assert (await client.get("/broken")).status == 500
        assert (await client.get("/items/x")).status == 422
        pool = pool_of(client)
        assert (pool["dials"], pool["in_use"]) == (1, 0), "its connection is kept"
        assert transport.server.connections == 1
    assert transport.server.connections == 0


async def test_many_ask_an_application_at_once() -> None:
    """And each has its own answer."""
    async with Client(
        "http://shop", transport=AppTransport(shop(), limits=Limits(connections=10, per_target=10))
    ) as client:

        async def ask(number: int) -> None:
            assert await (await client.get(f"/items/{number}")).json() == {"number": number}

        await asyncio.gather(*(ask(number) for number in range(200)))
        assert pool_of(client)["dials"] == 10


async def test_timeouts_and_cancellation_reach_an_application() -> None:
    """What a client gives up is cancelled there."""
    transport = AppTransport(shop())
    async with Client("http://shop", transport=transport, timeouts=Timeouts(read=0.05)) as client:
        with pytest.raises(ReadTimeout):
            await client.get("/never")
        task = asyncio.create_task(_get(client, "/never"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        await at_rest(client)
        assert (await client.get("/items/1")).status == 200


async def test_streams_of_an_application() -> None:
    """WebSockets and server-sent events work as over a network, and the application hears when the client is gone."""
    app = App("streams")
    gone = asyncio.Event()

    @app.websocket("/ws")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    @app.get("/events")
    async def events() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                for number in range(1000):
                    yield b"data: %d\n\n" % number
                await asyncio.Event().wait()
            finally:
                gone.set()

        return Response(pieces(), headers={"content-type": "text/event-stream"})

    async with nothing_left(), Client("http://streams", transport=AppTransport(app)) as client:
        async with client.websocket("/ws") as ws:
            await ws.send("hi")
            assert await ws.receive() == "hi"
        async with client.events("/events") as seen:
            assert (await anext(aiter(seen))).data == "0"
        await asyncio.wait_for(gone.wait(), 5)
        await at_rest(client)


async def _get(client: Client, path: str) -> ClientResponse:
    return await client.get(path)


async def test_only_some_hosts() -> None:
    """Others are as servers that are not there."""
    transport = AppTransport(shop(), hosts=("shop", "shop:8443"))
    async with Client(transport=transport) as client:
        assert (await client.get("http://shop/items/1")).status == 200
        assert (await client.get("https://shop:8443/items/1")).status == 200
        with pytest.raises(ConnectFailed, match=r"no host other: it has shop, shop:8443"):
            await client.get("http://other/items/1")


async def test_an_asgi_application_and_its_lifespan() -> None:
    """It starts with the client, and ends with it."""
    events: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                events.append(kind)
                await send({"type": f"{kind}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with Client("http://a", transport=AppTransport(application)) as client:
        assert events == ["lifespan.startup"]
        assert await (await client.get("/")).text() == "ok"
    assert events == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_start_that_fails_is_the_clients() -> None:
    """And nothing is left of it."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async with nothing_left():
        with pytest.raises(ForebayError, match="no database"):
            await Client("http://a", transport=AppTransport(application)).start()


def test_what_is_no_application() -> None:
    """Is refused, as is an address that is none."""
    with pytest.raises(TypeError, match="cannot serve 7"):
        AppTransport(7)
    with pytest.raises(ValueError, match="nonsense"):
        AppTransport(shop(), client="nonsense")


# -- a function


async def test_a_function_answers() -> None:
    """In each of the forms there are."""

    async def pieces() -> AsyncIterator[bytes | str]:
        yield b"a"
        yield "ü"

    answers: dict[str, Any] = {
        "/status": 204,
        "/text": (200, {"x-a": "b"}, "täxt"),
        "/bytes": (404, [("x-a", "1"), ("x-a", "2")], b"\xff"),
        "/json": Response({"id": 7}, headers={"x-a": "b"}),
        "/stream": Response(pieces()),
    }
    transport = FunctionTransport(lambda request: answers[request.url.path])
    async with Client("http://a", transport=transport) as client:
        response = await client.get("/status")
        assert (response.status, await response.read()) == (204, b"")
        response = await client.get("/text")
        assert (response.headers["x-a"], await response.text()) == ("b", "täxt")
        assert response.headers["content-length"] == "5"
        response = await client.get("/bytes")
        assert (response.status, response.headers.get_all("x-a"), await response.read()) == (404, ["1", "2"], b"\xff")
        response = await client.get("/json")
        assert (response.headers["content-type"], await response.json()) == ("application/json", {"id": 7})
        assert [piece async for piece in (await client.get("/stream")).stream()] == [b"a", "ü".encode()]
        response = await client.head("/json")
        assert (response.headers["content-length"], await response.read()) == ("8", b"")
        assert [str(request) for request in transport.requests] == [
            "GET http://a/status",
            "GET http://a/text",
            "GET http://a/bytes",
            "GET http://a/json",
            "GET http://a/stream",
            "HEAD http://a/json",
        ]


async def test_a_function_stands_in_for_a_server() -> None:
    """Redirects, cookies and retries of the client are as with one."""
    asked = 0

    async def answer(request: ClientRequest) -> Any:
        nonlocal asked
        asked += 1
        if request.url.path == "/moved":
            return 302, [("location", "/here"), ("set-cookie", "a=b")], b""
        if asked == 2:
            raise ConnectFailed("it is not there")
        return 200, [], request.headers.get("cookie", "none")

    transport = FunctionTransport(answer)
    async with Client("http://a.example", transport=transport, cookies=True, retry=Retry(attempts=2)) as client:
        assert await (await client.get("/moved")).text() == "a=b"
    assert len(transport.requests) == 3


async def test_a_function_sees_the_content() -> None:
    """As it would be sent."""

    async def answer(request: ClientRequest) -> Any:
        content = b"".join([piece async for piece in request.content.pieces()])
        return 200, [("content-type", request.content.kind)], content

    async with Client("http://a", transport=FunctionTransport(answer)) as client:
        response = await client.post("/", json={"a": 1})
        assert (await response.read(), response.headers["content-type"]) == (b'{"a":1}', "application/json")


@pytest.mark.parametrize("answer", [None, "text", True, (200, []), (200, [], 7), ("200", [], b"")])
async def test_what_is_no_answer(answer: Any) -> None:
    """Says what would be one."""
    async with Client("http://a", transport=FunctionTransport(lambda request: answer)) as client:
        with pytest.raises(TypeError, match="must be a ClientResponse, a Response"):
            await client.get("/")


async def test_a_function_that_takes_too_long() -> None:
    """Is given up when the request's time is over."""

    async def answer(request: ClientRequest) -> int:
        await asyncio.Event().wait()
        return 200

    async with Client("http://a", transport=FunctionTransport(answer), timeouts=Timeouts(total=0.05)) as client:
        with pytest.raises(DeadlineExceeded):
            await client.get("/")


async def test_a_function_keeps_so_many_requests() -> None:
    """And not all of a long run."""
    transport = FunctionTransport(lambda request: 200, keep=2)
    async with Client("http://a", transport=transport) as client:
        for number in range(5):
            await client.get(f"/{number}")
    assert [request.url.path for request in transport.requests] == ["/3", "/4"]
    none = FunctionTransport(lambda request: 200, keep=0)
    async with Client("http://a", transport=none) as client:
        await client.get("/")
    assert none.requests == []
    with pytest.raises(ValueError, match="keep -1"):
        FunctionTransport(lambda request: 200, keep=-1)


# -- faults


def ok(request: ClientRequest) -> Any:
    """A good server."""
    return 200, [("x-a", "b")], b"0123456789"


async def test_errors_by_pattern_and_count() -> None:
    """Only what matches fails, and only so often."""
    fault = RequestFault("POST */users*", times=2, error=ReadTimeout)
    transport = FaultTransport(FunctionTransport(ok), fault)
    async with Client("http://a", transport=transport) as client:
        assert (await client.get("/users")).status == 200
        assert (await client.post("/orders")).status == 200
        for _ in range(2):
            with pytest.raises(ReadTimeout, match=r"POST http://a/users/7: a fault of the test") as caught:
                await client.post("/users/7")
            assert caught.value.target == "http://a"
        assert (await client.post("/users/7")).status == 200
    assert transport.counts == {fault: 2}


async def test_faults_by_chance_are_the_same_each_time() -> None:
    """With the same seed, and about as many as was said."""

    async def run(seed: int) -> list[bool]:
        fault = RequestFault(probability=0.3, error=ConnectFailed)
        ends = []
        async with Client("http://a", transport=FaultTransport(FunctionTransport(ok), fault, seed=seed)) as client:
            for _ in range(400):
                try:
                    await client.get("/")
                    ends.append(True)
                except ConnectFailed:
                    ends.append(False)
        return ends

    first, again, other = await run(1), await run(1), await run(2)
    assert first == again != other
    assert 80 <= first.count(False) <= 160


def test_chance_is_not_changed_by_what_goes_on_meanwhile() -> None:
    """Requests that are under way at once have the faults, and the times, that they have one after the other."""

    async def asked(*, at_once: bool) -> list[float]:
        transport = FaultTransport(FunctionTransport(ok), *(RequestFault(jitter=1.0) for _ in range(3)), seed=3)
        async with Client("http://a", transport=transport) as client:

            async def ask() -> float:
                began = time.monotonic()
                await client.get("/")
                return time.monotonic() - began

            return list(await gather(*(ask() for _ in range(4)))) if at_once else [await ask() for _ in range(4)]

    with VirtualClock() as clock:
        one_by_one = clock.run(asked(at_once=False))
        assert clock.run(asked(at_once=True)) == pytest.approx(one_by_one)


@pytest.mark.parametrize("how", ["close", "discard"])
async def test_content_to_be_cut_that_nobody_takes(how: str) -> None:
    """Its connection is let go of all the same, and nobody is told of a response that was forgotten."""
    transport = FaultTransport(AppTransport(shop()), RequestFault(cut_after=5))
    async with nothing_left(), Client("http://a", transport=transport) as client:
        response = await client.get("/endless")
        with capture_logs() as logs:
            if how == "close":
                await response.close()
            else:
                response.discard()
            await at_rest(client)
        assert not [entry for entry in logs if entry["event"].startswith("response")]


async def test_an_answer_that_is_lost_was_given() -> None:
    """The server has done the work, and the client does not know; so a POST is not sent again."""
    done: Counter[str] = Counter()

    def answer(request: ClientRequest) -> int:
        done[request.method] += 1
        return 200

    transport = FaultTransport(FunctionTransport(answer), RequestFault(error=UpstreamClosed, lose_answer=True, times=2))
    async with Client("http://a", transport=transport, retry=Retry(attempts=3)) as client:
        with pytest.raises(UpstreamClosed):
            await client.post("/")
        assert (await client.get("/")).status == 200
    assert done == {"POST": 1, "GET": 2}


async def test_latency_counts_into_the_deadline() -> None:
    """And is passed by what is faster."""
    slow = RequestFault("* */slow", latency=5.0)
    transport = FaultTransport(FunctionTransport(ok), slow, RequestFault("* */fast", latency=0.001, jitter=0.001))
    async with Client("http://a", transport=transport, timeouts=Timeouts(total=0.1)) as client:
        assert (await client.get("/fast")).status == 200
        with pytest.raises(DeadlineExceeded):
            await client.get("/slow")


async def test_content_that_is_cut() -> None:
    """After so many bytes the connection ends; shorter content is whole."""
    transport = FaultTransport(AppTransport(shop()), RequestFault(cut_after=5))
    async with nothing_left(), Client("http://a", transport=transport) as client:
        response = await client.post("/echo", content=b"0123456789")
        got = []
        with pytest.raises(UpstreamClosed, match="cut after 5 bytes") as caught:
            async for piece in response.stream():
                got.append(piece)
        assert b"".join(got) == b"01234"
        assert caught.value.target == "http://a"
        assert await (await client.post("/echo", content=b"0123")).read() == b"0123"
        with pytest.raises(UpstreamClosed):
            await (await client.post("/echo", content=b"01234")).read()


async def test_statuses_and_several_faults() -> None:
    """All that match happen, up to the one that ends it."""
    first, second, third = RequestFault(latency=0.001), RequestFault(status=503), RequestFault(error=ReadTimeout)
    transport = FaultTransport(FunctionTransport(ok), first, second, third)
    async with Client("http://a", transport=transport) as client:
        assert (await client.get("/")).status == 503
        transport.faults.remove(second)
        with pytest.raises(ReadTimeout):
            await client.get("/")
        transport.faults.clear()
        assert (await client.get("/")).status == 200
    assert transport.counts == {first: 2, second: 1, third: 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"probability": 1.5}, "probability 1.5"),
        ({"times": 0}, "times 0"),
        ({"latency": -1}, "latency -1"),
        ({"jitter": float("inf")}, "jitter inf"),
        ({"status": 100}, "status 100"),
        ({"cut_after": -1}, "cut_after -1"),
        ({"status": 500, "error": ReadTimeout}, "exclude each other"),
        ({"lose_answer": True}, "lose_answer"),
    ],
)
def test_faults_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    """Are refused when they are made."""
    with pytest.raises(ValueError, match=said):
        RequestFault(**arguments)


@pytest.mark.parametrize("error", [ValueError, "ReadTimeout", int])
def test_errors_that_are_none(error: Any) -> None:
    """Only those of Forebay are what a network does."""
    with pytest.raises(TypeError, match=r"must be a class of forebay\.errors"):
        RequestFault(error=error)


# -- recordings

ONE_AFTER_THE_OTHER: tuple[RecorderMode, ...] = ("record", "replay")
SECRETS = ("hunter2", "k-123", "tok-456", "pw-789", "sid-abc", "rt-xyz", "never-seen")


async def recorded(path: Path, mode: Any = "record", **options: Any) -> list[Any]:
    """A session with a server, by way of a recorder."""
    count = 0

    async def play(peer: Peer) -> None:
        nonlocal count
        while (asked := await peer.asked()) is not None:
            count += 1
            if asked.target == "/count":
                await peer.answer(str(count).encode(), headers="Set-Cookie: session=sid-abc; Path=/\r\n")
            elif asked.target == "/binary":
                await peer.answer(bytes(range(256)))
            elif asked.method == "POST":
                await peer.answer(b'{"refresh_token":"rt-xyz","name":"bob"}', 201, "Content-Type: application/json\r\n")
            else:
                await peer.answer(b"hello never-seen", 404)

    async with playing(play) as server:
        transport = Recorder(HTTPTransport(), path, mode, secrets=["never-seen"], **options)
        async with Client(server.url, transport=transport) as client:
            return await session(client)


async def session(client: Client) -> list[Any]:
    """What is asked: some of it twice."""
    got: list[Any] = []
    for _ in range(2):
        got.append(await (await client.get("/count")).text())
    got.append(await (await client.get("/binary")).read())
    response = await client.post("/login?api_key=k-123", json={"user": "bob", "password": "pw-789"})
    got.append((response.status, await response.json()))
    response = await client.get("/none", headers={"authorization": "Bearer tok-456", "cookie": "a=hunter2"})
    got.append((response.status, response.ok))
    return got


def replaying(path: Path, **options: Any) -> Client:
    """A client that has a recording, and nothing else."""
    (url,) = {json.loads(line)["request"]["url"].rpartition("/")[0] for line in path.read_text().splitlines()[:1]}
    return Client(url, transport=Recorder(None, path, secrets=["never-seen"], **options))


async def test_what_was_recorded_is_replayed(tmp_path: Path) -> None:
    """Without the server, with the same answers in the same order."""
    path = tmp_path / "deep" / "tape.jsonl"
    got = await recorded(path)
    assert got[:2] == ["1", "2"]
    async with replaying(path) as client:
        again = await session(client)
        assert client.transport.left == []  # type: ignore[attr-defined]  # it is a Recorder
    assert again[:3] == got[:3]
    assert again[3] == (201, {"refresh_token": "***", "name": "bob"})
    assert again[4] == (404, False)


async def test_secrets_are_not_written(tmp_path: Path) -> None:
    """Neither those known by the names of their fields, nor those that were named; the rest can be read."""
    path = tmp_path / "tape.jsonl"
    await recorded(path)
    text = path.read_text()
    assert not [secret for secret in SECRETS if secret in text]
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 5
    assert "api_key=***" in lines[3]["request"]["url"]
    assert lines[3]["response"]["text"] == '{"refresh_token":"***","name":"bob"}'
    assert "bob" in lines[3]["sent"]
    assert ["authorization", "Bearer ***"] in lines[4]["headers"]


async def test_secrets_as_urls_forms_and_json_write_them(tmp_path: Path) -> None:
    """Are not written either, and one that is a part of another hides no more of it than it should."""
    path = tmp_path / "tape.jsonl"
    secret = 'pä s/w&"rd'

    def answer(request: ClientRequest) -> tuple[int, dict[str, str], str]:
        return 200, {}, json.dumps({"ascii": secret}) + json.dumps({"utf8": secret}, ensure_ascii=False)

    for mode in ONE_AFTER_THE_OTHER:
        transport = Recorder(FunctionTransport(answer), path, mode, secrets=[secret, "abc", "abcdef"])
        async with Client("http://a", transport=transport) as client:
            await client.get("/abcdef/abc", params={"q": secret})
            await client.post("/", form={"q": secret})
            await client.post("/", json={"q": secret})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["request"]["url"] == "http://a/***/***?q=***"
    assert [line.get("sent", "") for line in lines] == ["", "q=***", '{"q":"***"}']
    assert {line["response"]["text"] for line in lines} == {'{"ascii": "***"}{"utf8": "***"}'}
    assert {dict(line["response"]["headers"])["content-length"] for line in lines} == {"31"}


async def test_files_and_heads_are_replayed(tmp_path: Path) -> None:
    """Though a multipart boundary is another one each time, and a HEAD has a length and no content."""
    path = tmp_path / "tape.jsonl"

    def answer(request: ClientRequest) -> tuple[int, dict[str, str], bytes]:
        return 200, {"content-length": "77"}, b"x" * 77

    for mode in ONE_AFTER_THE_OTHER:
        transport = Recorder(FunctionTransport(answer), path, mode)
        async with Client("http://a", transport=transport) as client:
            assert (await client.post("/", files=[("f", b"abc")], form={"a": "1"})).status == 200
            assert (await client.head("/")).headers["content-length"] == "77"


async def test_a_recorder_may_be_started_again(tmp_path: Path) -> None:
    """It has what is on the cassette, once."""
    path = tmp_path / "tape.jsonl"
    await recorded(path)
    transport = Recorder(None, path)
    for _ in range(2):
        await transport.start()
        assert len(transport.left) == 5
        await transport.stop()


async def test_an_upgrade_cannot_be_recorded(tmp_path: Path) -> None:
    """And that is said."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        await peer.rest(10)

    transport = Recorder(HTTPTransport(), tmp_path / "tape.jsonl", "record")
    async with playing(play) as server, Client(server.url, transport=transport) as client:
        with pytest.raises(CassetteError, match="an upgraded connection cannot be recorded"):
            await client.get("/", headers={"connection": "upgrade", "upgrade": "x"})


async def test_a_request_that_is_not_there(tmp_path: Path) -> None:
    """Is an error of the test, with the nearest that is there."""
    path = tmp_path / "tape.jsonl"
    await recorded(path)
    async with replaying(path) as client:
        with pytest.raises(
            CassetteError, match=r"GET http://[^ ]*/coun is not .* the nearest is GET [^ ]*/count,.* its url"
        ):
            await client.get("/coun")
        with pytest.raises(CassetteError, match=r"differs in its content"):
            await client.post("/login?api_key=k-123", json={"user": "eve", "password": "pw-789"})
        with pytest.raises(CassetteError, match=r"differs in its method"):
            await client.put("/count")
        await client.post("/login?api_key=another", json={"user": "bob", "password": "another"})
        await client.get("/binary")
        with pytest.raises(CassetteError, match="recorded 1 times, and is asked for once more"):
            await client.get("/binary")
        recorder: Any = client.transport
        assert [one.split("/")[-1] for one in recorder.left] == ["count", "count", "none"]


async def test_auto_records_what_is_missing(tmp_path: Path) -> None:
    """And asks for nothing that is there."""
    path = tmp_path / "tape.jsonl"
    asked: list[str] = []

    def answer(request: ClientRequest) -> Any:
        asked.append(request.url.path)
        return 200, [], f"{len(asked)} {request.url.path}"

    async def run(*paths: str) -> list[str]:
        transport = Recorder(FunctionTransport(answer), path, "auto")
        async with Client("http://a", transport=transport) as client:
            return [await (await client.get(one)).text() for one in paths]

    assert await run("/1", "/2") == ["1 /1", "2 /2"]
    assert await run("/2", "/3", "/1") == ["2 /2", "3 /3", "1 /1"]
    assert asked == ["/1", "/2", "/3"]
    assert await run("/1", "/2", "/3") == ["1 /1", "2 /2", "3 /3"]
    assert asked == ["/1", "/2", "/3"]


async def test_record_begins_anew(tmp_path: Path) -> None:
    """What was there is gone."""
    path = tmp_path / "tape.jsonl"
    for number in range(2):
        transport = Recorder(FunctionTransport(ok), path, "record")
        async with Client("http://a", transport=transport) as client:
            await client.get(f"/{number}")
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["request"]["url"] == "http://a/1"


async def test_compressed_and_streamed_content(tmp_path: Path) -> None:
    """Is recorded as it is read, and what is sent from an iterable reaches the server whole."""
    path = tmp_path / "tape.jsonl"
    app = shop()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode() * 10

    whole = b"000000000011111111112222222222"
    async with Client("http://a", transport=Recorder(AppTransport(app), path, "record")) as client:
        assert await (await client.post("/echo", content=pieces())).read() == whole
        response = await client.get("/items/7", headers={"accept-encoding": "gzip"})
        assert await response.json() == {"number": 7}
    async with Client("http://a", transport=Recorder(None, path)) as client:
        response = await client.post("/echo", content=pieces())
        assert (await response.read(), response.headers["content-length"]) == (whole, "30")


async def test_content_that_is_too_large_to_record(tmp_path: Path) -> None:
    """Of the request, or of the answer."""
    transport = Recorder(AppTransport(shop()), tmp_path / "tape.jsonl", "record", max_content=100)
    async with Client("http://a", transport=transport) as client:
        with pytest.raises(ContentTooLarge, match="more than 100 bytes to record"):
            await client.post("/echo", content=b"x" * 101)
        with pytest.raises(ContentTooLarge, match="more than 100 bytes to record"):
            await client.get("/large")
        await at_rest(client)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read .*No such file.*mode='record'"),
        ("nonsense\n", "line 1: is no recording"),
        ('\n{"request":{}}\n', "line 2: is no recording"),
        (
            '{"request":{"method":"GET","url":"/","content":""},"response":{"status":200,"headers":[]},"version":9}',
            "version 9",
        ),
        (
            '{"request":{"method":"GET","url":"/","content":""},"response":{"status":42,"headers":[]}}',
            "line 1: is no recording: status 42: must be 200 to 599",
        ),
        (
            '{"request":{"method":"GET","url":"/","content":""},"response":{"status":200,"headers":[],"base64":"!"}}',
            "line 1: is no recording: .*base64",
        ),
        (
            '{"request":{"method":"GET","url":"/","content":""},"response":{"status":200,"headers":[["a","\u0416"]]}}',
            "line 1: is no recording: .*latin-1",
        ),
    ],
)
async def test_a_cassette_that_cannot_be_read(tmp_path: Path, text: str | None, said: str) -> None:
    """Says which line, and why."""
    path = tmp_path / "tape.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CassetteError, match=said):
        await Client("http://a", transport=Recorder(None, path)).start()


def test_recorders_that_make_no_sense(tmp_path: Path) -> None:
    """Are refused when they are made."""
    with pytest.raises(ValueError, match="mode 'play': must be record, replay, auto"):
        Recorder(None, tmp_path, "play")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a transport"):
        Recorder(None, tmp_path, "auto")
    with pytest.raises(ValueError, match="secrets"):
        Recorder(None, tmp_path, secrets=[""])
    with pytest.raises(ValueError, match="max_content 0"):
        Recorder(None, tmp_path, max_content=0)


async def test_an_error_is_not_recorded(tmp_path: Path) -> None:
    """It reaches the program, and the next run tries again."""
    path = tmp_path / "tape.jsonl"
    transport = Recorder(FaultTransport(FunctionTransport(ok), RequestFault(error=UpstreamProtocolError)), path, "auto")
    async with Client("http://a", transport=transport) as client:
        with pytest.raises(UpstreamProtocolError):
            await client.get("/")
    assert path.read_text() == ""
