"""Request hooks: what they add is on every answer, wherever they stand, and what they refuse goes no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay.errors import HTTPError
from forebay.http import App, Next, Request, RequestHook, Response, WebSocket
from tests.http.middleware.served import UPGRADE, Asker, serving


class Marks(RequestHook):
    """Adds a header; refuses, fails or leaves work for later where the request asks for that."""

    def __init__(self, name: str, words: tuple[bytes, ...] | None = None, line: str = "") -> None:
        self.name = name
        self.line = (line or f"x-{name}: 1").encode() + b"\r\n"
        self.words = (b"x-" + name.encode(),) if words is None else words
        self.later: list[str] = []

    def before(self, request: Request) -> Response | bytes | None:
        wish = request.headers.get("x-wish", "")
        if wish == f"{self.name} refuses":
            return Response("refused", status=403)
        if wish == f"{self.name} fails as expected":
            raise HTTPError(418, "short and stout")
        if wish == f"{self.name} fails":
            raise RuntimeError("not expected")
        if wish == f"{self.name} is wrong":
            return 5  # type: ignore[return-value]  # a mistake of its author
        if wish == f"{self.name} has nothing":
            return None
        if wish == f"{self.name} works later":
            request.after(self.later.append, request.path)
        return self.line


async def passing(request: Request, call_next: Next) -> Response:
    """A middleware that is no hook: what is inside of it has to be a coroutine."""
    return await call_next(request)


def site(*layers: Any) -> App[Any]:
    """All ways to answer."""
    app: App[Any] = App(middleware=layers)

    @app.get("/plain")
    def plain() -> str:
        return "plain"

    @app.get("/coroutine")
    async def coroutine() -> str:
        return "coroutine"

    @app.get("/waits")
    async def waits() -> str:
        await asyncio.sleep(0.001)
        return "waits"

    @app.get("/stream")
    async def stream() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    @app.get("/none")
    async def none() -> None:
        return None

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("not expected")

    @app.get("/expected")
    async def expected() -> None:
        raise HTTPError(409, "no")

    @app.get("/slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.post("/body")
    async def body(request: Request) -> str:
        return f"{request.id} {await request.text()}"

    @app.get("/own")
    async def own() -> Response:
        return Response("own", headers={"X-A": "of the handler", "vary": "accept"})

    @app.websocket("/ws")
    async def ws(ws: WebSocket) -> None:
        return None

    part: App[Any] = App(middleware=layers)

    @part.get("/inner")
    async def inner() -> str:
        return "inner"

    app.mount("/part", part)
    return app


ANSWERS = [
    ("/plain", 200), ("/coroutine", 200), ("/waits", 200), ("/stream", 200), ("/none", 204), ("/expected", 409),
    ("/nothing/there", 404), ("/slow", 504), ("/part/inner", 200), ("/part/nothing", 404), ("/fails", 500),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status"), ANSWERS)
async def test_every_answer_has_the_lines(path: str, status: int) -> None:
    """Those of errors nobody has caught, and of deadlines, as well."""
    async with serving(site(Marks("a"), Marks("b"))) as client:
        answer = await client.ask(path)
        assert answer.status == status
        assert (answer.headers.get("x-a"), answer.headers.get("x-b")) == ("1", "1")


@pytest.mark.parametrize(("path", "status"), ANSWERS[:7])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_in_the_midst_of_others(place: int, path: str, status: int) -> None:
    """A middleware that is no hook stands in front of, between or behind them: the same headers."""
    layers: list[Any] = [Marks("a"), Marks("b")]
    layers.insert(place, passing)
    async with serving(site(*layers)) as client:
        answer = await client.ask(path)
        assert answer.status == status
        assert (answer.headers.get("x-a"), answer.headers.get("x-b")) == ("1", "1")


@pytest.mark.parametrize("between", [(), (passing,)])
@pytest.mark.parametrize(
    ("wish", "status", "has"),
    [
        ("b refuses", 403, ["x-a"]),
        ("b fails as expected", 418, ["x-a"]),
        ("b has nothing", 200, ["x-a", "x-c"]),
        ("a refuses", 403, []),
    ],
)
async def test_what_one_refuses(between: tuple[Any, ...], wish: str, status: int, has: list[str]) -> None:
    """Has the lines of those outside of it; those inside of it and the handler are not called."""
    async with serving(site(Marks("a"), *between, Marks("b"), Marks("c"))) as client:
        answer = await client.ask("/plain", ("x-wish", wish))
        assert answer.status == status
        assert [name for name in ("x-a", "x-b", "x-c") if name in answer.headers] == has


@pytest.mark.parametrize("wish", ["b fails", "b is wrong"])
async def test_one_that_fails(wish: str) -> None:
    """Is a 500, and the connection goes on."""
    async with serving(site(Marks("a"), Marks("b"))) as client:
        answer = await client.ask("/plain", ("x-wish", wish))
        assert (answer.status, answer.headers.get("x-a")) == (500, "1")
        assert (await client.ask("/plain")).status == 200


@pytest.mark.parametrize("between", [(), (passing,)])
async def test_headers_of_the_handler(between: tuple[Any, ...]) -> None:
    """Are replaced, in any case of letters; ``vary`` gets what it lacks."""
    async with serving(site(*between, Marks("a"), Marks("v", (b"vary",), "vary: Origin"))) as client:
        answer = await client.ask("/own")
        assert (answer.headers["x-a"], answer.headers["vary"]) == ("1", "accept, Origin")
        plain = await client.ask("/plain")
        assert (plain.headers["x-a"], plain.headers["vary"]) == ("1", "Origin")


async def test_two_that_add_to_the_same_header() -> None:
    """``vary`` is one list of both."""
    hooks = Marks("v", (b"vary",), "vary: Origin"), Marks("w", (b"vary",), "vary: Cookie")
    async with serving(site(*hooks)) as client:
        assert (await client.ask("/plain")).headers["vary"] == "Cookie, Origin"


async def test_one_whose_words_begin_like_those_of_another() -> None:
    """The outer one's line replaces that of the inner one, as when they are called one after the other."""
    hooks = Marks("a", (b"x-re",), "x-region: outer"), Marks("b", (b"x-region",), "x-region: inner")
    for layers in (hooks, (hooks[0], passing, hooks[1])):
        async with serving(site(*layers)) as client:
            answer = await client.ask("/plain")
            assert [value for name, value in answer.headers.items() if name == "x-region"] == ["outer"]


class Odd(RequestHook):
    """Gives what it must not."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def before(self, request: Request) -> Any:
        return _coroutine() if self.given is _coroutine else self.given


async def _coroutine() -> None: ...


@pytest.mark.parametrize("between", [(), (passing,)], ids=["alone", "in the midst"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"x-a: 1", "gave b'x-a: 1': each header line must end with CRLF"),
        ("x-a: 1\r\n", "gave str, not a Response, bytes or None"),
        (bytearray(b"x-a: 1\r\n"), "gave bytearray, not"),
        (_coroutine, "gave a coroutine: before() must not be one"),
    ],
)
async def test_what_one_must_not_give(between: tuple[Any, ...], given: Any, said: str) -> None:
    """It is a 500 that says so in the log, before the handler is called; the next header is not swallowed."""
    called = []
    app: App[Any] = App(middleware=[Marks("outer"), *between, Odd(given)])
    app.get("/")(lambda: called.append(1))
    app.on_error = lambda error, exchange: errors.append(str(error))
    errors: list[str] = []
    async with serving(app) as client:
        answer = await client.ask("/")
    assert (answer.status, called) == (500, [])
    assert said in errors[0]


async def test_the_request_is_that_of_the_handler() -> None:
    """What a hook sets on it the handler sees, and its content is there to be read."""

    class Named(RequestHook):
        def before(self, request: Request) -> None:
            request.id = "named"

    async with serving(site(Named())) as client:
        assert (await client.ask("/body", method="POST", body=b"content")).body == b"named content"
        assert (await client.chunked("/body", [b"in ", b"pieces"])).body == b"named in pieces"


@pytest.mark.parametrize("path", ["/plain", "/coroutine", "/waits", "/stream"])
async def test_work_for_after_the_response(path: str) -> None:
    """A hook may leave some."""
    hook = Marks("a")
    async with serving(site(hook)) as client:
        await client.ask(path, ("x-wish", "a works later"))
        async with asyncio.timeout(5):
            while not hook.later:
                await asyncio.sleep(0.001)
    assert hook.later == [path]


async def test_a_handshake_goes_without() -> None:
    """A WebSocket's; one that is refused has the lines."""
    async with serving(site(Marks("a"))) as client:
        refused = await client.ask("/ws", *UPGRADE, ("x-wish", "a fails as expected"))
        assert (refused.status, refused.headers.get("x-a")) == (418, None)
        answer = await client.ask("/ws", *UPGRADE)
        assert (answer.status, answer.headers.get("x-a")) == (101, None)


async def test_one_that_is_not_early_is_in_the_task() -> None:
    """It gets the context that the handler runs in."""
    seen: list[Any] = []

    class Late(Marks):
        early = False

        def before(self, request: Request) -> bytes:
            seen.append(asyncio.current_task())
            return self.line

    app = site(Late("a"))

    @app.get("/task")
    async def task() -> None:
        seen.append(asyncio.current_task())

    async with serving(app) as client:
        assert (await client.ask("/task")).headers["x-a"] == "1"
    assert seen[0] is seen[1]


async def test_under_another_server() -> None:
    """The same lines in an ASGI server's messages."""
    app = site(Marks("a"))
    for path, status in (("/plain", 200), ("/stream", 200), ("/nothing", 404)):
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)  # noqa: B023  # called before the next turn

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"host", b"a")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        await app(scope, receive, send)
        assert (sent[0]["status"], dict(sent[0]["headers"]).get(b"x-a")) == (status, b"1")


async def test_what_is_added_is_kept_apart() -> None:
    """Requests of one connection, one after the other, with lines of their own."""

    class Counting(RequestHook):
        words = (b"x-count",)
        count = 0

        def before(self, request: Request) -> bytes:
            self.count += 1
            return b"x-count: %d\r\n" % self.count

    async with serving(site(Counting())) as client:
        got = [(await _count(client, path)) for path in ("/plain", "/waits", "/coroutine", "/plain", "/stream")]
    assert got == ["1", "2", "3", "4", "5"]


async def _count(client: Asker, path: str) -> str:
    return (await client.ask(path)).headers["x-count"]
