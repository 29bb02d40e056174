"""TestClient: requests, connections, the life of the application."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest

from forebay.errors import ConnectFailed, DeadlineExceeded, StartError, UpstreamClosed
from forebay.http import App, Exchange, FileResponse, Response, ServerLimits, ServerTimeouts
from forebay.http.binding import Depends
from forebay.testing import TestClient
from tests.support import eventually
from tests.testing.client_app import Events, make_app

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    """A client of the application of these tests; no task is left of it in the end."""
    before = asyncio.all_tasks()
    async with TestClient(make_app()) as found:
        yield found
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


async def test_a_typed_route(client: TestClient) -> None:
    """Path and query arrive, JSON comes back, with the headers of the real server."""
    response = await client.get("/users/7", params={"a": [1, 2]})
    assert (response.status, response.json()) == (200, {"id": 7, "a": [1, 2]})
    assert response.json(dict[str, Any])["id"] == 7
    assert response.headers["content-type"] == "application/json"
    assert response.headers["Server"] == "forebay"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.url == "http://testserver/users/7?a=1&a=2"
    assert repr(response) == "<ClientResponse 200 GET http://testserver/users/7?a=1&a=2>"


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
async def test_methods(client: TestClient, method: str) -> None:
    """Each has its function."""
    response = await getattr(client, method)("/mirror", headers={"X-One": "1"})
    told = response.json()
    assert told["method"] == method.upper()
    assert told["headers"]["x-one"] == ["1"]
    assert told["headers"]["host"] == ["testserver"]


async def test_head_and_options(client: TestClient) -> None:
    """HEAD has the length and no content, and its connection goes on; OPTIONS tells what is allowed, also of ``*``."""
    response = await client.head("/users/7")
    assert (response.status, response.body) == (200, b"")
    assert int(response.headers["content-length"]) > 0
    streamed = await client.head("/stream", params={"count": 3})
    assert (streamed.status, streamed.body) == (200, b"")
    response = await client.options("/users/7")
    assert (response.status, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (await client.options("*")).status == 204
    assert (await client.get("/users/1")).status == 200
    assert client.server.statistics()["connections"]["accepted"] == 1


async def test_errors_of_the_framework_are_responses(client: TestClient) -> None:
    """404, 405 and what does not fit the signature."""
    assert (await client.get("/nothing")).status == 404
    assert (await client.post("/users/7")).status == 405
    response = await client.get("/users/7?a=x")
    assert response.status == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_paths_and_queries_are_encoded(client: TestClient) -> None:
    """What must be escaped is; what is already stays; params are added to a query."""
    told = (await client.get("/mirror/a b/%2F/ü?x=1 2#gone", params={"y": "ä&", "z": True, "n": None})).json()
    assert told["path"] == "/mirror/a%20b/%2F/%C3%BC"
    assert told["query"] == [["x", "1 2"], ["y", "ä&"], ["z", "true"], ["n", ""]]
    for url in ("mirror", "", "?x=1"):
        with pytest.raises(ValueError, match="must be like http://testserver/path, or a path that begins with /"):
            await client.get(url)


async def test_who_asks_whom() -> None:
    """Host, port, scheme, client and path prefix of the base URL are the application's; a whole URL replaces them."""
    async with TestClient(make_app(), base_url="https://Example.org:8443/mirror/", client="2001:db8::1") as client:
        told = (await client.get("/x")).json()
        assert (told["host"], told["scheme"], told["client"]) == ("example.org:8443", "https", "2001:db8::1")
        assert told["path"] == "/mirror/x"
        told = (await client.get("http://other.example/mirror")).json()
        assert (told["host"], told["scheme"]) == ("other.example", "http")


async def test_headers_of_the_client() -> None:
    """They go with every request, unless it has others of that name; several of one name are sent."""
    async with TestClient(make_app(), headers={"Authorization": "Bearer a", "x-b": "1"}) as client:
        told = (await client.get("/mirror", headers=[("AUTHORIZATION", "Bearer b"), ("x-c", "1"), ("X-C", "2")])).json()
        assert told["headers"]["authorization"] == ["Bearer b"]
        assert told["headers"]["x-b"] == ["1"]
        assert told["headers"]["x-c"] == ["1", "2"]
        with pytest.raises(ValueError, match="control character"):
            await client.get("/mirror", headers={"x": "a\r\nb: c"})
        with pytest.raises(ValueError, match="must be a token"):
            await client.request("GET /x HTTP/1.1\r\n", "/mirror")
        for bad in ("mirror", "ftp://a/", "http://user@a/"):
            with pytest.raises(ValueError, match=r"must be (like http://|without a user)"):
                await client.get(bad)
        assert (await client.get("/users/1")).status == 200


async def test_interim_answers(client: TestClient) -> None:
    """Early hints are kept beside the response."""
    response = await client.get("/hints")
    assert response.text == "done"
    assert [(status, headers["link"]) for status, headers in response.interim] == [(103, "</style.css>; rel=preload")]


async def test_a_file_without_a_socket(tmp_path: Any) -> None:
    """There is no sendfile in memory: the file is read, at the pace of the client."""
    content = bytes(range(256)) * 8192
    (tmp_path / "file.bin").write_bytes(content)
    app: App[Any] = App()

    @app.get("/file")
    def file() -> FileResponse:
        return FileResponse(tmp_path / "file.bin")

    async with TestClient(app) as client:
        assert (await client.get("/file")).body == content
        part = await client.get("/file", headers={"range": "bytes=1-3"})
        assert (part.status, part.body) == (206, content[1:4])


# Connections


async def test_connections_are_used_again(client: TestClient) -> None:
    """Requests one after the other share one."""
    for number in range(5):
        assert (await client.get(f"/users/{number}")).json()["id"] == number
    assert client.server.statistics()["connections"]["accepted"] == 1


async def test_many_at_once(client: TestClient) -> None:
    """Concurrent requests have a connection each, and all get their own answers."""
    responses = await asyncio.gather(*(client.get(f"/users/{number}") for number in range(50)))
    assert [response.json()["id"] for response in responses] == list(range(50))
    assert client.server.statistics()["connections"]["accepted"] == 50


async def test_their_number_is_bounded() -> None:
    """Who comes when all are taken waits for one, and says so when none becomes free."""
    events = Events()
    async with TestClient(make_app(events), max_connections=2) as client:
        responses = await asyncio.gather(*(client.get(f"/users/{number}") for number in range(20)))
        assert [response.json()["id"] for response in responses] == list(range(20))
        assert client.server.statistics()["connections"]["accepted"] == 2
        async with client.stream("GET", "/endless"), client.stream("GET", "/endless"):
            with pytest.raises(
                DeadlineExceeded, match=r"GET http://testserver/users/1: none of 2 connections became free"
            ):
                await client.get("/users/1", timeout=0.05)
        other = await client.get("https://testserver/users/1")
        assert other.status == 200


async def test_the_server_may_close() -> None:
    """Responses that end a connection are complete, and the next request has a new one."""
    async with TestClient(make_app(), limits=ServerLimits(requests=1)) as client:
        for _ in range(3):
            response = await client.get("/users/1")
            assert response.headers["connection"] == "close"
        assert client.server.statistics()["connections"]["accepted"] == 3


# Limits and times of the server


async def test_limits_of_the_server() -> None:
    """The real ones: 431 for headers, 414 for the target, 413 for content."""
    async with TestClient(make_app(), limits=ServerLimits(field=100, line=200)) as client:
        assert (await client.get("/users/1", headers={"x": "y" * 200})).status == 431
        assert (await client.get("/" + "a" * 300)).status == 414
        assert (await client.post("/mirror", content=bytes(5 * 1024 * 1024))).status == 413
        assert client.server.statistics()["refused"] == 3
        assert (await client.get("/users/1")).status == 200


async def test_timeouts_of_the_server() -> None:
    """An answer that takes too long is a 504."""
    async with TestClient(make_app(Events()), timeouts=ServerTimeouts(request=0.05)) as client:
        assert (await client.get("/never")).status == 504


async def test_a_request_that_is_never_answered() -> None:
    """The wait ends, says what was waited for, and the handler is cancelled."""
    events = Events()
    async with TestClient(make_app(events)) as client:
        with pytest.raises(DeadlineExceeded, match=r"GET http://testserver/never: no response came within 0\.05 s"):
            await client.get("/never", timeout=0.05)
        assert events.cancelled.is_set()
        assert (await client.get("/users/1", timeout=None)).status == 200
        assert client.server.statistics()["disconnects"] == 1


async def test_a_test_that_is_cancelled_leaves_the_server() -> None:
    """A task that makes a request may be cancelled; so is the handler."""
    events = Events()
    async with TestClient(make_app(events)) as client:
        asking = asyncio.create_task(client.get("/never"))
        await asyncio.wait_for(events.began.wait(), 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert events.cancelled.is_set()


async def test_drain() -> None:
    """What is in flight is answered, with ``connection: close``; then nothing is taken any more."""
    events = Events()
    async with TestClient(make_app(events)) as client:
        await asyncio.gather(client.get("/users/1"), client.get("/users/2"))
        asking = asyncio.create_task(client.post("/slow-reader", content=b"abc"))
        await asyncio.wait_for(events.began.wait(), 5)
        assert client.server.connections == 2
        draining = asyncio.create_task(client.server.drain())
        await eventually(lambda: client.server.connections == 1)
        with pytest.raises(ConnectFailed, match="draining"):
            await client.get("/users/1")
        assert not draining.done()
        events.go.set()
        response = await asking
        assert (response.json(), response.headers["connection"]) == ({"received": 3}, "close")
        await asyncio.wait_for(draining, 5)


# Life


async def test_lifespan_and_overrides() -> None:
    """Entered before the first request, left after the last; overrides are there at start-up and gone after it."""
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        steps.append(f"up {sorted(f.__name__ for f in getattr(app, 'overrides'))}")  # noqa: B009
        yield
        steps.append("down")

    def real() -> int:
        return 1

    def other() -> int:
        return 2

    def fake() -> int:
        return 3

    app: Any = App(lifespan=lifespan)
    app.overrides = {other: fake}

    @app.get("/")
    def index() -> str:
        steps.append("asked")
        return "x"

    client = TestClient(app, overrides={real: fake})
    for _ in range(2):
        async with client:
            assert (await client.get("/")).text == "x"
            assert app.overrides == {other: fake, real: fake}
        assert app.overrides == {other: fake}
    assert steps == ["up ['other', 'real']", "asked", "down"] * 2
    with pytest.raises(RuntimeError, match="async with TestClient"):
        await client.get("/")
    async with client:
        with pytest.raises(RuntimeError, match="serves already"):
            await client.__aenter__()


async def database() -> str:
    """A dependency."""
    return "real"


async def fake_database() -> str:
    """What stands in for it."""
    return "fake"


async def test_overrides_of_dependencies() -> None:
    """What ``Depends`` names is replaced for the time of the client, and is itself again after it."""

    app: App[Any] = App()

    @app.get("/")
    async def index(db: Annotated[str, Depends(database)]) -> str:
        return db

    async with TestClient(app, overrides={database: fake_database}) as client:
        assert (await client.get("/")).text == "fake"
    async with TestClient(app) as client:
        assert (await client.get("/")).text == "real"


async def test_a_start_that_fails() -> None:
    """What the lifespan raises is raised, and nothing is left behind, overrides neither; one that hangs is given up."""

    @asynccontextmanager
    async def failing(app: App[Any]) -> AsyncIterator[None]:
        if app.name == "hanging":
            await asyncio.Event().wait()
        if app.name == "app":
            raise LookupError("no database")
        yield

    before = asyncio.all_tasks()
    app: Any = App(lifespan=failing)
    app.overrides = {}
    client = TestClient(app, overrides={len: max})
    with pytest.raises(LookupError, match="no database"):
        await client.__aenter__()
    assert app.overrides == {}
    with pytest.raises(DeadlineExceeded, match=r"application hanging did not start within 0\.05 s"):
        await TestClient(App("hanging", lifespan=failing), timeout=0.05).__aenter__()
    assert asyncio.all_tasks() <= before


async def test_an_end_that_hangs() -> None:
    """It is given up, and says so."""

    @asynccontextmanager
    async def hanging(app: App[Any]) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    with pytest.raises(DeadlineExceeded, match=r"application app did not shut down within 0\.05 s"):
        async with TestClient(App(lifespan=hanging), timeout=0.05):
            pass
    assert asyncio.all_tasks() <= before


async def test_leaving_closes_all() -> None:
    """Whoever still waits is told, handlers are cancelled, no task is left."""
    before = asyncio.all_tasks()
    events = Events()
    async with TestClient(make_app(events), max_connections=1) as client:
        asking = asyncio.create_task(client.get("/never"))
        await asyncio.wait_for(events.began.wait(), 5)
        waiting = asyncio.create_task(client.get("/users/1"))
        await asyncio.sleep(0)
    with pytest.raises(UpstreamClosed, match="closed the connection before its head"):
        await asking
    with pytest.raises(ConnectFailed, match="is being left"):
        await waiting
    assert events.cancelled.is_set()
    assert asyncio.all_tasks() <= before


async def test_what_can_be_served() -> None:
    """Anything with ``on_request``; an ASGI callable, with its lifespan; nothing else."""

    class Fixed:
        name = "fixed"
        body_limit = None

        def on_request(self, exchange: Exchange) -> None:
            exchange.respond(200, b"", b"fixed")

    async with TestClient(Fixed()) as client:
        assert (await client.get("/")).text == "fixed"
    steps: list[str] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                steps.append(message["type"])
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{scope['client'][0]} {scope['path']}".encode()})

    async with TestClient(asgi, client="10.0.0.7") as client:
        assert (await client.get("/a")).text == "10.0.0.7 /a"
    assert steps == ["lifespan.startup", "lifespan.shutdown"]

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError("broken")

    with pytest.raises(StartError, match="broken"):
        await TestClient(broken).__aenter__()
    with pytest.raises(TypeError, match="cannot serve 5"):
        TestClient(5)
    with pytest.raises(TypeError, match="no overrides"):
        TestClient(Fixed(), overrides={len: max})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 0}, "timeout 0"),
        ({"max_connections": 0}, "max_connections 0"),
        ({"client": "testclient"}, "'testclient' does not appear to be an IP"),
        ({"base_url": "testserver"}, "must be like http://example.org/path"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    """They are refused at once, by name."""
    with pytest.raises(ValueError, match=match):
        TestClient(App(), **options)


async def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that opens one is called, for requests, streams and WebSockets."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        for name in ("socket", "socketpair", "create_connection"):
            patched.setattr(socket, name, refuse)
        if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's methods cannot be replaced
            patched.setattr(loop, "create_server", refuse)
            patched.setattr(loop, "create_connection", refuse)
        async with TestClient(make_app()) as client:
            assert (await client.get("/users/1")).status == 200
            assert client.server.addresses == []
            async with client.websocket("/ws") as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_a_response_that_is_too_long_is_refused() -> None:
    """The content of a response is read into memory up to ``max_body``."""
    async with TestClient(make_app(), max_body=1000) as client:
        with pytest.raises(Exception, match="longer than max_body, 1000 bytes"):
            await client.get("/stream", params={"count": 101, "size": 10})
        assert (await client.get("/stream", params={"count": 100, "size": 10})).body[:10] == bytes(10)


async def test_responses_that_were_made_by_hand() -> None:
    """Charsets, texts, MessagePack."""
    app: App[Any] = App()

    @app.get("/latin")
    def latin() -> Response:
        return Response("ü".encode("latin-1"), content_type="text/plain; charset=iso-8859-1")

    @app.get("/packed")
    def packed() -> Response:
        return Response(b"\x81\xa1a\x01", content_type="application/msgpack")

    async with TestClient(app) as client:
        assert (await client.get("/latin")).text == "ü"
        assert (await client.get("/packed")).msgpack() == {"a": 1}
