"""What is mounted below a prefix: applications, and whatever answers requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, Response, StaticFiles, WebSocket
from forebay.http.binding import Depends, blocking
from forebay.http.mounting import Mountable
from forebay.testing import TestClient, WebSocketDenied
from tests.http.test_groups import noting
from tests.support import eventually, raw_client, running


class Echo:
    """Something mountable that says what it was asked."""

    def __init__(self) -> None:
        self.life: list[str] = []

    async def startup(self) -> None:
        """Called with the application's."""
        self.life.append("up")

    async def shutdown(self) -> None:
        """The same at the end."""
        self.life.append("down")

    async def respond(self, request: Request, path: str) -> Response:
        """What is left of the path, and where we are."""
        if path == "denied":
            raise HTTPError(403, "no")
        return Response(f"{request.method} {path!r} {request.root_path.decode()} {request.route}")


class Settings:
    """State of one's own."""

    def __init__(self, name: str) -> None:
        self.name = name


class Other(Settings):
    """State of the other application."""


def sub_application(log: list[str]) -> App[Other]:
    """An application to be mounted."""

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        log.append("(sub")
        yield
        log.append("sub)")

    async def pool() -> AsyncIterator[str]:
        log.append("+pool")
        yield "pool"
        log.append("-pool")

    app = App("sub", state=Other("other"), middleware=[noting("sub")], lifespan=lifespan)

    @app.get("/")
    def index(request: Request) -> str:
        return f"index {request.root_path.decode()}"

    @app.get("/{name}/x", name="named")
    async def named(
        name: str, state: Other, app: App[Other], request: Request, pool: Annotated[str, Depends(pool, scope="app")]
    ) -> list[str]:
        return [name, state.name, app.name, request.app.name, request.route, request.url_for("named", name="a/b"), pool]

    @app.post("/content")
    async def content(body: dict[str, int]) -> dict[str, int]:
        return body

    @app.get("/slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.get("/blocks")
    @blocking
    def blocks() -> str:
        return "blocked"

    @app.get("/stream")
    async def stream() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    @app.get("/fails")
    async def fails() -> None:
        raise LookupError

    @app.websocket("/ws/{room}")
    async def ws(socket: WebSocket, room: str, state: Other) -> None:
        async for message in socket:
            await socket.send(f"{state.name} {room} {message!s}")

    return app


async def test_an_application_in_an_application() -> None:
    """Its own routes, middleware inside the outer one's, state, names and errors."""
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        log.append("(main")
        yield
        log.append("main)")

    app = App("main", state=Settings("main"), middleware=[noting("main")], lifespan=lifespan)
    group = app.group("/g/{tenant}", middleware=[noting("group")])
    group.mount("/sub", sub_application(log))
    app.get("/")(lambda: "main")
    async with TestClient(app, raise_errors=False) as client:
        assert log == ["(main", "(sub", "+pool"]
        response = await client.get("/g/a%20b/sub/n%C3%A4me/x")
        assert response.json() == [
            "näme", "other", "sub", "sub", "/g/{tenant}/sub/{name}/x", "/g/a%20b/sub/a%2Fb/x", "pool"
        ]  # fmt: skip
        assert response.headers["x-seen"] == "main group sub"
        assert (await client.get("/g/t/sub")).text == "index /g/t/sub"
        assert (await client.get("/g/t/sub/")).text == "index /g/t/sub"
        missing = await client.get("/g/t/sub/none")
        assert (missing.status, missing.headers["x-seen"]) == (404, "main group sub")
        wrong = await client.put("/g/t/sub/content")
        assert (wrong.status, wrong.headers["allow"]) == (405, "OPTIONS, POST")
        options = await client.options("/g/t/sub/content")
        assert (options.status, options.headers["allow"]) == (204, "OPTIONS, POST")
        assert (await client.post("/g/t/sub/content", json={"a": 1})).json() == {"a": 1}
        assert (await client.post("/g/t/sub/content", json={"a": "b"})).status == 422
        assert (await client.get("/g/t/sub/slow")).status == 504
        assert (await client.get("/g/t/sub/blocks")).text == "blocked"
        assert (await client.get("/g/t/sub/stream")).text == "ab"
        assert (await client.get("/g/t/sub/fails")).status == 500
        assert (await client.head("/g/t/sub/blocks")).headers["content-length"] == "7"
        assert (await client.get("/g/t/subx")).status == 404
        async with client.websocket("/g/t/sub/ws/room") as ws:
            await ws.send("hi")
            assert await ws.receive() == "other room hi"
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/g/t/sub/none"):
                pass
        assert denied.value.status == 404
    assert log == ["(main", "(sub", "+pool", "-pool", "sub)", "main)"]


async def test_mounts_in_mounts() -> None:
    """Prefixes add up; one application at two places starts once."""
    outer, middle, inner = App("outer"), App("middle", middleware=[noting("middle")]), App("inner")
    started: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        started.append("up")
        yield
        started.append("down")

    shared = App("shared", lifespan=lifespan)

    @inner.get("/x/{n:int}")
    async def x(n: int, request: Request) -> list[Any]:
        return [n, request.root_path.decode(), request.route, request.url_for("x", n=n)]

    shared.get("/")(lambda: "shared")
    middle.mount("/inner", inner)
    outer.mount("/a/middle", middle)
    outer.mount("/one", shared)
    outer.mount("/two", shared)
    async with TestClient(outer) as client:
        response = await client.get("/a/middle/inner/x/5")
        assert response.json() == [5, "/a/middle/inner", "/a/middle/inner/x/{n:int}", "/a/middle/inner/x/5"]
        assert response.headers["x-seen"] == "middle"
        assert (await client.get("/a/middle/inner/x/y")).status == 404
        assert (await client.get("/one")).text == (await client.get("/two")).text == "shared"
    assert started == ["up", "down"]


async def test_anything_that_answers() -> None:
    """A mountable gets what is left of the path, decoded, and its life is the application's; routes come first."""
    echo = Echo()
    assert isinstance(echo, Mountable)
    app = App()
    app.mount("/echo", echo)
    app.get("/echo/route")(lambda: "route")
    async with TestClient(app) as client:
        assert echo.life == ["up"]
        for path, text in (
            ("/echo", "GET '' /echo /echo"),
            ("/echo/", "GET '' /echo /echo"),
            ("/echo/a/b%20c", "GET 'a/b c' /echo /echo"),
            ("/echo/a/", "GET 'a/' /echo /echo"),
            ("/echo/route", "route"),
        ):
            assert (await client.get(path)).text == text, path
        assert (await client.post("/echo/x")).text == "POST 'x' /echo /echo"
        assert (await client.get("/echo/denied")).status == 403
        assert (await client.get("/echo/%FF")).status == 400
        assert (await client.get("/echo//a")).status == 404  # an empty segment is none
    assert echo.life == ["up", "down"]


async def raw_path_of(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application that says what it was asked."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["raw_path"]})


@pytest.mark.parametrize("escaped", ["%2F", "%2f"])
async def test_an_escaped_slash_leads_past_no_route(escaped: str, tmp_path: Path) -> None:
    """What a more specific route guards is not had from the mount; an application gets it as one segment."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.txt").write_text("secret")
    app, sub = App(), App("sub")
    app.mount("/files", StaticFiles(tmp_path))
    app.mount("/echo", Echo())
    app.mount("/sub", sub)
    app.mount("/asgi", raw_path_of)
    for prefix in ("/files", "/echo"):
        app.get(f"{prefix}/private/{{name}}")(lambda name: Response(f"{name} is guarded", status=403))
    sub.get("/{name}")(lambda name: Response(name))
    async with TestClient(app, overrides={raw_path_of: raw_path_of}) as client:  # with which all is compiled anew
        for prefix in ("/files", "/echo"):
            assert (await client.get(f"{prefix}/private/a.txt")).status == 403
            assert (await client.get(f"{prefix}/private{escaped}a.txt")).status == 404
        assert (await client.get(f"/sub/a{escaped}b")).text == "a/b"
        assert (await client.get(f"/asgi/a{escaped}b")).text == f"/asgi/a{escaped}b"
        assert (await client.get("/echo/a%252Fb")).text == "GET 'a%2Fb' /echo /echo"


async def test_a_mount_that_does_not_start() -> None:
    """What was started before it is stopped."""
    app, echo = App(), Echo()

    class Broken(Echo):
        async def startup(self) -> None:
            raise LookupError("broken")

    app.mount("/echo", echo)
    app.mount("/broken", Broken())
    with pytest.raises(LookupError, match="broken"):
        await app.startup()
    assert echo.life == ["up", "down"]


async def test_a_client_that_leaves_a_mounted_application() -> None:
    """Its handler is cancelled, and its dependencies are closed."""
    log: list[str] = []
    began = asyncio.Event()
    app, sub = App(), App("sub")

    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    @sub.get("/")
    async def handler(resource: Annotated[str, Depends(resource)]) -> None:
        began.set()
        await asyncio.Event().wait()

    app.mount("/sub", sub)
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"GET /sub HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(began.wait(), 5)
        await eventually(lambda: log == ["closed"])
