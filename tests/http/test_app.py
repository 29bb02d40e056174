"""The framework over real sockets: answers, errors, middleware, life, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from forebay.errors import ConnectionClosed, HTTPError, Overloaded
from forebay.http import App, Exchange, HTTPServer, Request, Response
from tests.support import RawClient, eventually, raw_client, running

CallNext = Callable[[Request], Awaitable[Response]]
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[RawClient]:
    """A client of a server that serves ``app``."""
    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        yield client


class User(msgspec.Struct):
    """What a handler may return."""

    name: str


def answers() -> App:
    """An application with one route for every kind of answer."""
    app = App()

    @app.get("/dict")
    async def a_dict() -> dict[str, int]:
        return {"a": 1}

    @app.get("/list")
    def a_list() -> list[int]:
        return [1]

    @app.get("/struct")
    async def a_struct() -> User:
        return User("bob")

    @app.get("/unannotated")
    def unannotated():  # type: ignore[no-untyped-def]  # the point of it
        return User("bob")

    @app.get("/str")
    async def a_str() -> str:
        return "é"

    @app.get("/bytes")
    def some_bytes() -> bytes:
        return b"\x00"

    @app.get("/none")
    async def nothing() -> None:
        return None

    @app.get("/maybe")
    def maybe() -> User | None:
        return None

    @app.get("/status")
    def a_status() -> Any:
        return {"a": 1}, 201

    @app.get("/enum-status")
    async def an_enum_status() -> Any:
        return {"a": 1}, HTTPStatus.CREATED

    @app.get("/headers")
    async def some_headers() -> Any:
        return "made", 202, {"x-a": "b"}

    @app.get("/response")
    def a_response() -> Response:
        return Response("<p>", content_type="text/html", headers={"x-a": "b"})

    @app.get("/stream")
    async def a_stream() -> AsyncIterator[bytes]:
        return pieces()

    @app.get("/generator")
    async def a_generator() -> AsyncIterator[bytes | str]:
        yield b"a"
        yield "é"

    return app


async def pieces() -> AsyncIterator[bytes]:
    """Three pieces, one of them empty."""
    for piece in (b"a", b"", b"bc"):
        yield piece


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("/dict", 200, JSON, b'{"a":1}'),
        ("/list", 200, JSON, b"[1]"),
        ("/struct", 200, JSON, b'{"name":"bob"}'),
        ("/unannotated", 200, JSON, b'{"name":"bob"}'),
        ("/str", 200, TEXT, "é".encode()),
        ("/bytes", 200, BINARY, b"\x00"),
        ("/none", 204, None, b""),
        ("/maybe", 204, None, b""),
        ("/status", 201, JSON, b'{"a":1}'),
        ("/enum-status", 201, JSON, b'{"a":1}'),
        ("/headers", 202, TEXT, b"made"),
        ("/response", 200, "text/html", b"<p>"),
        ("/stream", 200, BINARY, b"abc"),
        ("/generator", 200, BINARY, "aé".encode()),
    ],
)
async def test_what_handlers_return(path: str, status: int, content_type: str | None, body: bytes) -> None:
    """Each kind of value has its status, type and encoding, with and without middleware around it."""
    for layered in (False, True):
        app = answers()
        if layered:
            app.middleware(_passes_on)
        async with serving(app) as client:
            got = await client.get(path)
            assert (got[0], got[1].get("content-type"), got[2]) == (status, content_type, body)
            assert got[1].get("x-a") == ("b" if path in ("/headers", "/response") else None)
            await client.send(f"HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            head = await client.response(head_only=True)
            assert (head[0], head[1].get("content-length")) == (status, got[1].get("content-length"))
            assert (await client.get(path))[2] == body  # HEAD left nothing behind


async def _passes_on(request: Request, call_next: CallNext) -> Response:
    return await call_next(request)


async def test_paths_and_methods_no_route_takes() -> None:
    """404 without a route, 405 with ``allow``, OPTIONS by itself; all as problem documents (RFC 9110 section 15.5)."""
    app = App()

    @app.route("/things", methods=["get", "POST"])
    def things() -> str:
        return "things"

    async with serving(app) as client:
        status, headers, body = await client.get("/nothing")
        assert (status, headers["content-type"]) == (404, "application/problem+json")
        assert msgspec.json.decode(body)["title"] == "Not Found"
        await client.send(b"DELETE /things HTTP/1.1\r\nhost: a\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        await client.send(b"OPTIONS /things HTTP/1.1\r\nhost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        assert (await client.response())[0] == 204
        assert (await client.get("/%ff"))[0] == 400
        assert (await client.get("/things"))[2] == b"things"


async def test_errors_become_problems() -> None:
    """What a handler raises decides the status; a fault is logged with its route, and its text stays in the log."""
    app = App(name="shop")

    @app.get("/conflict")
    async def conflict() -> str:
        raise HTTPError(409, "taken", headers=[("x-why", "name")])

    @app.get("/full")
    def full() -> str:
        raise Overloaded("jobs", "no room", retry_after=3)

    @app.get("/fault/{number:int}")
    async def fault(number: int) -> str:
        raise ValueError("secret")

    @app.get("/plain-fault")
    def plain_fault() -> str:
        raise KeyError("secret")

    @app.get("/unsendable")
    def unsendable() -> dict[str, Any]:
        return {"a": object()}

    @app.get("/header")
    async def header() -> Response:
        return Response("a", headers={"x": "a\r\nset-cookie: b"})

    @app.get("/late-status")
    def late_status() -> Any:
        return "a", 99

    async with serving(app) as client:
        with capture_logs() as quiet:
            status, headers, body = await client.get("/conflict")
            assert (status, headers["x-why"], msgspec.json.decode(body)["detail"]) == (409, "name", "taken")
            status, headers, _ = await client.get("/full")
            assert (status, headers["retry-after"]) == (503, "3")
        assert [entry for entry in quiet if entry["log_level"] == "error"] == []
        for path, route in (
            ("/fault/5", "/fault/{number:int}"),
            ("/plain-fault", "/plain-fault"),
            ("/unsendable", "/unsendable"),
            ("/header", "/header"),
            ("/late-status", "/late-status"),
        ):
            with capture_logs() as logged:
                status, headers, body = await client.get(path)
            assert status == 500
            assert b"secret" not in body
            assert "set-cookie" not in headers
            (entry,) = (entry for entry in logged if entry["log_level"] == "error")
            assert (entry["app"], entry["method"], entry["route"]) == ("shop", "GET", route)
            assert isinstance(entry["exc_info"], Exception)


async def test_middleware_is_around_everything() -> None:
    """The first one is outermost; each sees answers of handlers, of errors and of paths no route takes."""
    app = App()
    seen: list[str] = []

    @app.middleware
    async def outer(request: Request, call_next: CallNext) -> Response:
        request.state["trail"] = ["outer"]
        response = await call_next(request)
        seen.append(f"{request.route} {response.status}")
        response.headers["x-outer"] = "1"
        return response

    @app.middleware
    async def inner(request: Request, call_next: CallNext) -> Response:
        request.state["trail"].append("inner")
        if request.headers.get("x-stop"):
            return Response("stopped", status=202)
        return await call_next(request)

    @app.get("/{name}")
    def handler(name: str, request: Request) -> dict[str, Any]:
        if name == "bad":
            raise HTTPError(418)
        return {"trail": request.state["trail"]}

    async with serving(app) as client:
        status, headers, body = await client.get("/a")
        assert (status, headers["x-outer"], body) == (200, "1", b'{"trail":["outer","inner"]}')
        assert (await client.get("/a", x_stop="1"))[2] == b"stopped"
        for path in ("/bad", "/no/where"):
            _, headers, _ = await client.get(path)
            assert headers["x-outer"] == "1"
            assert headers["content-type"] == "application/problem+json"
        await client.send(b"PUT /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        assert (await client.response())[0] == 405
    assert seen == ["/{name} 200", "/{name} 202", "/{name} 418", " 404", " 405"]


async def test_middleware_that_fails() -> None:
    """A fault in middleware is a 500, an HTTPError its status, and forgetting the response is a fault."""
    app = App()

    @app.middleware
    async def fails(request: Request, call_next: CallNext) -> Response:
        if request.path == "/http":
            raise HTTPError(401, "who are you?")
        if request.path == "/fault":
            raise ValueError("secret")
        await call_next(request)
        return None  # type: ignore[return-value]  # the mistake that is tested

    async with serving(app) as client:
        assert (await client.get("/http"))[0] == 401
        with capture_logs():
            for path in ("/fault", "/forgets"):
                status, _, body = await client.get(path)
                assert status == 500
                assert b"secret" not in body


async def test_middleware_may_read_the_content_first() -> None:
    """What middleware has read as a whole is still there for the handler's arguments."""
    app = App()
    sizes = []

    @app.middleware
    async def measure(request: Request, call_next: CallNext) -> Response:
        sizes.append(len(await request.body()))
        return await call_next(request)

    @app.post("/")
    def handler(user: User) -> str:
        return user.name

    async with serving(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n")
        await client.send(b'{"name":"bob"}')
        assert (await client.response())[2] == b"bob"
    assert sizes == [14]


def test_a_route_registered_twice_names_both_places() -> None:
    """The error shows file and line of the first and of the second handler."""
    app = App()

    @app.get("/users/{number}")
    def first(number: str) -> None: ...

    def second(name: str) -> None: ...

    with pytest.raises(ValueError, match="taken already") as caught:
        app.get("/users/{name}")(second)
    for handler in (first, second):
        assert f"{__file__}:{handler.__code__.co_firstlineno}" in str(caught.value)
    app.post("/users/{name}")(second)  # another method is another route


async def test_registration_ends_when_serving_begins() -> None:
    """A route or middleware that came too late would silently not be there."""
    app = App()
    async with serving(app):
        with pytest.raises(RuntimeError, match="before"):
            app.get("/late")(lambda: None)
        with pytest.raises(RuntimeError, match="before"):
            app.middleware(_passes_on)


async def test_the_lifespan_is_around_serving() -> None:
    """Entered before the first request, left after the last one; ``state`` carries what it made."""
    steps = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        steps.append("enter")
        app.state.greeting = "hello"
        yield
        steps.append("leave")

    app = App(lifespan=lifespan)

    @app.get("/")
    def handler() -> str:
        steps.append("request")
        return str(app.state.greeting)

    async with serving(app) as client:
        assert (await client.get("/"))[2] == b"hello"
    assert steps == ["enter", "request", "leave"]


async def test_a_lifespan_that_fails() -> None:
    """The server does not start, and says why."""

    def lifespan(app: App) -> AbstractAsyncContextManager[None]:
        raise ValueError("no database")

    server = HTTPServer(App(lifespan=lifespan), bind="http://127.0.0.1:0")
    with pytest.raises(ValueError, match="no database"):
        await server.start()
    assert server.addresses == []


async def test_answers_keep_the_order_of_requests() -> None:
    """Pipelined requests to plain and waiting handlers are answered one after the other."""
    app = App()
    gate = asyncio.Event()

    @app.get("/waits")
    async def waits() -> str:
        await gate.wait()
        return "waited"

    @app.get("/plain")
    def plain() -> str:
        gate.set()
        return "plain"

    async with serving(app) as client:
        await client.send(b"GET /waits HTTP/1.1\r\nhost: a\r\n\r\nGET /plain HTTP/1.1\r\nhost: a\r\n\r\n")
        asyncio.get_running_loop().call_later(0.02, gate.set)
        assert [(await client.response())[2] for _ in range(2)] == [b"waited", b"plain"]


@pytest.mark.both_loops
@pytest.mark.parametrize("chunked", [False, True])
async def test_content_in_pieces(chunked: bool) -> None:
    """A plain handler whose content does not come at once is called when it is complete."""
    app = App()

    @app.post("/")
    def handler(body: bytes) -> str:
        return body.decode()

    framing = b"transfer-encoding: chunked" if chunked else b"content-length: 4"
    async with serving(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n" + framing + b"\r\n\r\n")
        assert (await client.response())[0] == 100
        for piece in (b"ab", b"cd"):
            await client.send(b"2\r\n%b\r\n" % piece if chunked else piece)
        await client.send(b"0\r\n\r\n" if chunked else b"")
        assert (await client.response())[2] == b"abcd"


@pytest.mark.parametrize("chunked", [False, True])
async def test_content_past_the_limit(chunked: bool) -> None:
    """413, announced or not (RFC 9110 section 15.5.14); the handler is not called with it."""
    app = App(body_limit=10)
    called = []

    @app.post("/")
    async def handler(body: bytes) -> None:
        called.append(body)

    async with serving(app) as client:
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: 11"
        body = b"b\r\n12345678901\r\n0\r\n\r\n" if chunked else b"12345678901"
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n" + body)
        assert (await client.response())[0] == 413
    assert called == []


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    """The Task is cancelled, its clean-up runs, nothing is logged as a fault, and the server goes on."""
    app = App()
    steps: list[str] = []

    @app.get("/waits")
    async def waits() -> str:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("ended")
        return "never"

    @app.get("/")
    def plain() -> str:
        return "here"

    with capture_logs() as logged:
        async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
            port = server.addresses[0].port
            async with raw_client(port) as leaver:
                await leaver.send(b"GET /waits HTTP/1.1\r\nhost: a\r\n\r\n")
                await eventually(lambda: steps == ["begun"])
                leaver.abort()
                await eventually(lambda: steps == ["begun", "ended"])
            async with raw_client(port) as client:
                assert (await client.get("/"))[2] == b"here"
    assert [entry for entry in logged if entry["log_level"] in ("error", "critical")] == []


async def test_a_handler_that_is_cancelled_still_answers() -> None:
    """Cancellation that leaks out of a handler is a 503; the client does not wait for an answer that never comes."""
    app = App()

    @app.get("/")
    async def handler() -> str:
        raise asyncio.CancelledError

    @app.get("/forgotten")
    def forgotten() -> Any:
        return handler()

    with capture_logs() as logged:
        async with serving(app) as client:
            assert (await client.get("/"))[0] == 503
            assert (await client.get("/forgotten"))[0] == 500
    assert logged[1]["event"] == "handler was cancelled"


async def test_a_client_that_leaves_ends_the_stream_of_its_content() -> None:
    """A handler that waits for content gets ConnectionClosed, which it may tell from being cancelled."""
    app = App()
    steps: list[str] = []

    @app.post("/")
    async def handler(request: Request) -> None:
        try:
            async for piece in request.stream():
                steps.append(piece.decode())
        except ConnectionClosed:
            steps.append("closed")
            raise

    async with serving(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
        await eventually(lambda: steps == ["abc"])
        client.abort()
        await eventually(lambda: steps == ["abc", "closed"])


async def test_content_nobody_reads_yet_is_bounded() -> None:
    """While a handler does something else, the client is held back, however much came with the head."""
    app = App(body_limit=None)
    gate = asyncio.Event()

    @app.post("/")
    async def handler(request: Request) -> str:
        await gate.wait()
        return str(len(await request.body()))

    size = 48 * 1024 * 1024
    async with serving(app) as client:
        client.writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        left = client.writer.transport.get_write_buffer_size
        sizes: list[int] = []

        def settled() -> bool:
            sizes.append(left())
            return len(sizes) > 30 and sizes[-30] == left()

        await eventually(settled)
        assert left() > size // 2
        gate.set()
        assert (await client.response(timeout=20))[2] == b"%d" % size


async def test_stopping_waits_for_handlers() -> None:
    """A handler that is cut by the stop has cleaned up before the lifespan is left."""
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        steps.append("lifespan left")

    app = App(lifespan=lifespan)

    @app.get("/")
    async def handler() -> str:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")
        return "never"

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await eventually(lambda: steps == ["begun"])
        await server.stop()
        assert await client.rest() == b""
        await client.close()
    assert steps == ["begun", "cleaned up", "lifespan left"]


@pytest.mark.both_loops
async def test_a_stream_waits_for_its_client() -> None:
    """A client that does not read stops the iterator; when it leaves, the iterator is closed."""
    app = App()
    produced = 0
    closed = asyncio.Event()

    @app.get("/")
    async def endless() -> AsyncIterator[bytes]:
        nonlocal produced
        try:
            while True:
                produced += 1
                yield b"x" * 65536
        finally:
            closed.set()

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await eventually(lambda: produced > 1)
        counts: list[int] = []

        def settled() -> bool:
            counts.append(produced)
            return len(counts) > 20 and counts[-20] == produced

        await eventually(settled)  # the sockets' and the client's buffers are full
        before = produced
        assert before * 65536 < 64 * 1024 * 1024
        await client.exactly(32 * 1024 * 1024)
        await eventually(lambda: produced > before)
        client.abort()
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_stream_that_fails() -> None:
    """The client notices that the answer is not complete; the fault is logged with its route."""
    app = App()

    @app.get("/")
    async def broken() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ValueError("secret")

    with capture_logs() as logged:
        async with serving(app) as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = await client.rest()
    assert not answer.endswith(b"0\r\n\r\n")
    assert b"secret" not in answer
    assert [entry["route"] for entry in logged if entry["event"] == "handler failed"] == ["/"]


async def test_a_stream_of_known_length() -> None:
    """A ``content-length`` makes a stream without chunks; one that falls short of it is cut."""
    app = App()

    @app.get("/{length:int}")
    def stream(length: int) -> Response:
        return Response(pieces(), headers={"content-length": str(length)})

    async with serving(app) as client:
        status, headers, body = await client.get("/3")
        assert (status, headers["content-length"], body) == (200, "3", b"abc")
        assert "transfer-encoding" not in headers
        await client.send(b"GET /9 HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = await client.rest()  # where the handler ran at once, it was cut before anything was sent
        assert answer == b"" or answer.endswith(b"abc")


async def test_head_does_not_run_a_stream() -> None:
    """HEAD of an endless stream is answered at once, and the iterator is closed."""
    app = App()
    produced = []

    @app.get("/")
    async def endless() -> AsyncIterator[bytes]:
        while True:
            produced.append(1)
            yield b"x"

    async with serving(app) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await client.response(head_only=True))[0] == 200
    assert produced == []


class _Weird(BaseException):
    """Raised by nobody with good manners."""


async def test_every_way_to_fail_is_answered() -> None:
    """Errors that cannot be sent, statuses that are none, bodies that are no bytes, and what is no Exception."""
    app = App()

    @app.get("/bad-error-header")
    async def bad_error_header() -> None:
        raise HTTPError(400, "x", headers=[("x", "a\r\nb: c")])

    @app.get("/bad-detail")
    async def bad_detail() -> None:
        raise HTTPError(400, "\ud800")

    @app.get("/bad-status")
    async def bad_status() -> Response:
        response = Response("x")
        response.status = 999
        return response

    @app.get("/bad-body")
    async def bad_body() -> Response:
        response = Response("x")
        response.body = "text"  # type: ignore[assignment]
        return response

    @app.get("/weird")
    async def weird() -> None:
        raise _Weird

    @app.get("/weird-sync")
    def weird_sync() -> None:
        raise _Weird

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server):
        for path in ("bad-error-header", "bad-detail", "bad-status", "bad-body", "weird", "weird-sync"):
            async with raw_client(server.addresses[0].port) as client:
                assert (await client.get(f"/{path}"))[0] == 500, path
        await eventually(lambda: server.in_flight == 0)


async def test_a_stream_that_ends_badly_is_cut() -> None:
    """The client must see that something is missing, whatever the stream raised."""
    app = App()

    @app.get("/{kind}")
    async def stream(kind: str) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x"
            raise {"cancelled": asyncio.CancelledError, "weird": _Weird, "error": ValueError}[kind]

        return Response(pieces())

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server):
        for kind in ("cancelled", "weird", "error"):
            async with raw_client(server.addresses[0].port) as client:
                await client.send(f"GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert not (await client.rest()).endswith(b"0\r\n\r\n"), kind
        await eventually(lambda: server.in_flight == 0)


async def test_numbers_in_lists_have_the_same_bounds() -> None:
    """Finite, and at most 64 bits, also as members of a list."""
    app = App()

    @app.get("/")
    def handler(floats: list[float] = [], ints: list[int] = []) -> int:  # noqa: B006  # never changed
        return len(floats) + len(ints)

    async with serving(app) as client:
        assert (await client.get("/?floats=1&floats=2.5&ints=3"))[2] == b"3"
        for query in ("floats=nan&floats=1", "floats=inf", "ints=" + "9" * 30):
            assert (await client.get(f"/?{query}"))[0] == 422, query


async def test_requests_leave_nothing_for_the_collector() -> None:
    """Exchange, handler and task do not hold each other once the answer is out: the collector would stop the world."""
    app = App()

    @app.get("/{n:int}")
    async def answer(n: int) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"n": n}

    async with serving(app) as client:
        await client.get("/0")
        gc.collect()
        gc.disable()
        try:
            for n in range(50):
                await client.get(f"/{n}")
            await asyncio.sleep(0)
            alive = sum(isinstance(thing, Exchange) for thing in gc.get_objects())
        finally:
            gc.enable()
    assert alive <= 2
