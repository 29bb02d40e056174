"""Handlers within middleware: what one answer keeps of another, what errors of middleware are to those around it, what
the next request of a connection sees, and applications that are mounted at the root or served twice."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Next, Request, Response, StaticFiles, WebSocket, cached
from forebay.http.middleware import CORS, SecurityHeaders, Sessions
from forebay.testing import TestClient
from tests.http.middleware.served import serving
from tests.support import raw_client

USER: ContextVar[str] = ContextVar("USER", default="nobody")


async def marking(request: Request, call_next: Next) -> Response:
    """A middleware that marks each answer with who has asked."""
    response = await call_next(request)
    response.headers.add("x-for", request.headers.get("x-user", "nobody"))
    return response


async def test_an_answer_that_is_returned_again_is_as_its_handler_made_it() -> None:
    """A response that is a constant: what middleware adds for one client is not sent to the next."""
    one = Response("ok", headers={"x-own": "1"})
    app: App[Any] = App(middleware=[marking, Sessions("k" * 32, secure=False)])

    @app.get("/login")
    async def login(request: Request) -> Response:
        request.session["user"] = "ann"
        return one

    @app.get("/")
    async def root() -> Response:
        return one

    async with serving(app) as client:
        assert "set-cookie" in (await client.ask("/login", ("x-user", "ann"))).headers
        other = await client.ask("/", ("x-user", "bob"))
        assert (other.headers["x-for"], other.headers["x-own"], "set-cookie" in other.headers) == ("bob", "1", False)
    assert list(one.headers) == ["x-own", "content-type"]


async def test_an_error_of_inner_middleware_is_an_answer_to_outer() -> None:
    """As one of a handler is: what a plain middleware does behind ``await call_next`` is done."""

    async def refusing(request: Request, call_next: Next) -> Response:
        raise HTTPError(403, "not you")

    app: App[Any] = App(middleware=[marking, marking, refusing])
    part: App[Any] = App(middleware=[refusing])
    outer: App[Any] = App(middleware=[marking])
    outer.mount("/part", part)
    async with serving(app) as client:
        answer = await client.ask("/")
        assert (answer.status, answer.detail, answer.headers["x-for"]) == (403, "not you", "nobody")
    async with serving(outer) as client:
        assert ((await client.ask("/part/")).status, (await client.ask("/part/")).headers["x-for"]) == (403, "nobody")


async def test_requests_behind_each_other_have_contexts_of_their_own() -> None:
    """Two in one packet: the second does not see what a middleware has set for the first."""

    async def identify(request: Request, call_next: Next) -> Response:
        if "x-user" in request.headers:
            USER.set(request.headers["x-user"])
        await asyncio.sleep(0)
        return await call_next(request)

    app: App[Any] = App(middleware=[identify])

    @app.get("/")
    async def root() -> str:
        return USER.get()

    async with serving(app) as client:
        await client.client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-user: ada\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert [(await client.client.response())[2] for _ in range(2)] == [b"ada", b"nobody"]


async def test_what_the_lifespan_sets_is_seen_by_all_of_them() -> None:
    """Also by those that begin when the one before them has ended."""

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> Any:
        USER.set("of the lifespan")
        yield

    app: App[Any] = App(lifespan=lifespan)

    @app.get("/")
    async def root() -> str:
        await asyncio.sleep(0)
        return USER.get()

    async with serving(app) as client:
        await client.client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        assert [(await client.client.response())[2] for _ in range(2)] == [b"of the lifespan"] * 2


async def test_a_mount_at_the_root_takes_what_no_route_takes(tmp_path: Path) -> None:
    """A site beside an API: routes come first."""
    (tmp_path / "index.html").write_text("<p>the page")
    (tmp_path / "a.txt").write_text("a")
    app: App[Any] = App(middleware=[SecurityHeaders()])

    @app.get("/api/users/{name}")
    async def user(name: str) -> str:
        return name

    app.mount("/", StaticFiles(tmp_path, fallback="index.html"))
    assert app.url_for("user", name="x") == "/api/users/x"
    html = ("accept", "text/html")
    async with serving(app) as client:
        assert (await client.ask("/api/users/ann")).body == b"ann"
        assert (await client.ask("/a.txt")).body == b"a"
        for path in ("/", "/some/where"):
            answer = await client.ask(path, html)
            assert (answer.status, answer.body) == (200, b"<p>the page")
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.ask("/../a.txt")).status == 400


async def test_an_app_at_the_root() -> None:
    """Its routes as they are, with those of the outer one before them."""
    inner, outer = App("inner"), App("outer")

    @inner.get("/")
    async def root(request: Request) -> str:
        return f"inner {request.route} {request.base_path}"

    @inner.get("/a/{x}")
    async def a(request: Request, x: str) -> str:
        return f"inner {request.route} {request.base_path}"

    @outer.get("/a/b")
    async def b() -> str:
        return "outer"

    outer.mount("/", inner)
    async with serving(outer) as client:
        got = [(await client.ask(path)).body for path in ("/", "/a/b", "/a/c")]
        assert got == [b"inner / ", b"outer", b"inner /a/{x} "]
        assert (await client.ask("/b")).status == 404


async def test_parameters_of_a_mounts_prefix_are_the_requests() -> None:
    """``mount_params``, beside those of the route within."""
    inner: App[Any] = App("inner")

    @inner.get("/users/{name}")
    async def users(request: Request, name: str) -> dict[str, Any]:
        return {**request.mount_params, **request.path_params}

    @inner.get("/all")
    async def all_of_them(request: Request) -> dict[str, Any]:
        return request.mount_params

    outer: App[Any] = App("outer")
    outer.mount("/of/{tenant}", inner)
    async with serving(outer) as client:
        assert (await client.ask("/of/acme/users/ann")).body == b'{"tenant":"acme","name":"ann"}'
        assert (await client.ask("/of/acme/all")).body == b'{"tenant":"acme"}'


async def test_a_preflight_is_answered_by_the_group_of_its_method() -> None:
    """A path has routes in two groups, one of which other origins may use."""
    app: App[Any] = App()

    @app.group("/x").get("/y")
    async def read() -> None:
        return None

    @app.group("/x", middleware=[CORS(origins=["https://a.example"])]).post("/y")
    async def write() -> None:
        return None

    async with serving(app) as client:
        asks = ("origin", "https://a.example"), ("access-control-request-method", "POST")
        answer = await client.ask("/x/y", *asks, method="OPTIONS")
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in (await client.ask("/x/y", asks[0], method="OPTIONS")).headers


async def test_an_app_with_several_servers_has_one_life() -> None:
    """It begins with the first and ends with the last, also where a part is mounted in two parts."""
    entered: list[str] = []

    def lifespan(app: App[Any]) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def live() -> Any:
            entered.append(f"in {app.name}")
            yield
            entered.append(f"out {app.name}")

        return live()

    shared = App("shared", lifespan=lifespan)
    one, other, app = App("one"), App("other"), App("app", lifespan=lifespan)
    one.mount("/shared", shared)
    other.mount("/shared", shared)
    app.mount("/one", one)
    app.mount("/other", other)
    both = ["in app", "in shared"]
    servers = [HTTPServer(app, bind="http://127.0.0.1:0") for _ in range(3)]
    await asyncio.gather(*(server.start() for server in servers))
    assert entered == both
    for server in servers[:2]:
        await server.drain()
        await server.stop()
    assert entered == both
    async with raw_client(servers[2].addresses[0].port) as client:
        assert (await client.get("/nothing"))[0] == 404
    await servers[2].stop()
    assert entered == [*both, "out shared", "out app"]
    async with serving(app):  # again
        assert entered[4:] == both


async def test_a_start_that_fails_fails_for_all_servers() -> None:
    """And may be tried again."""
    begun, go, broken = asyncio.Event(), asyncio.Event(), True

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> Any:
        begun.set()
        await go.wait()
        if broken:
            raise LookupError("no database")
        yield

    app: App[Any] = App(lifespan=lifespan)
    servers = [HTTPServer(app, bind="http://127.0.0.1:0") for _ in range(2)]
    first = asyncio.create_task(servers[0].start())
    await begun.wait()
    second = asyncio.create_task(servers[1].start())
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(LookupError, match="no database"):
        await first
    with pytest.raises(RuntimeError, match=r"<App app .*could not be started"):
        await second
    broken = False
    async with serving(app) as client:
        assert (await client.ask("/nothing")).status == 404


async def test_a_cached_handler_is_bound_by_its_own_signature() -> None:
    """The decorator stands for the function."""
    app: App[Any] = App()
    calls = 0

    @app.get("/double")
    @cached(ttl=60)
    async def double(q: int) -> int:
        nonlocal calls
        calls += 1
        return 2 * q

    async with serving(app) as client:
        assert [(await client.ask("/double?q=7")).body for _ in range(2)] == [b"14", b"14"]
        assert (await client.ask("/double?q=x")).status == 422
    assert calls == 1


async def test_errors_of_websocket_handlers_are_raised_in_tests() -> None:
    """As those of other handlers are."""
    app: App[Any] = App()

    @app.websocket("/at-once")
    async def at_once(ws: WebSocket) -> None:
        raise LookupError("at once")

    @app.websocket("/later")
    async def later(ws: WebSocket) -> None:
        async for message in ws:
            raise LookupError(message)

    @app.websocket("/fine")
    async def fine(ws: WebSocket) -> None:
        await ws.receive()
        await ws.receive()

    async with TestClient(app) as client:
        with pytest.raises(LookupError, match="at once"):
            async with client.websocket("/at-once") as ws:
                await ws.receive()
        with pytest.raises(LookupError, match="hello"):
            async with client.websocket("/later") as ws:
                await ws.send("hello")
                await ws.receive()
        async with client.websocket("/fine") as ws:
            await ws.send("x")
    async with TestClient(app, raise_errors=False) as client, client.websocket("/at-once") as ws:
        assert await ws.wait_closed() == 1011
