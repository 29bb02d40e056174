"""Dependencies: they are made once, in order, and closed once, in reverse order, however a request ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from forebay.errors import HTTPError
from forebay.http import App, HTTPServer, Request, Response, WebSocket
from forebay.http.binding import Depends, Header, Query, blocking
from forebay.testing import TestClient, WebSocketDenied
from tests.support import eventually, raw_client, running


class Log(list[str]):
    """What happened, in order."""

    def resource(self, name: str, *, patient: bool = True) -> Callable[[], AsyncIterator[str]]:
        """A dependency that says when it is opened and closed, and what it is closed with."""

        async def opened() -> AsyncIterator[str]:
            self.append(f"+{name}")
            try:
                yield name
            except BaseException as error:
                self.append(f"!{name} {type(error).__name__}")
                raise
            finally:
                if patient:
                    await asyncio.sleep(0)  # a close that waits is not to be interrupted
                    await asyncio.sleep(0)
                self.append(f"-{name}")

        return opened

    def take(self) -> str:
        """All of it, once."""
        said = " ".join(self)
        self.clear()
        return said


def two(log: Log) -> tuple[Any, Any]:
    """Two dependencies, the second of which needs the first."""
    first = log.resource("a")

    inner = log.resource("b")

    async def second(a: str) -> AsyncIterator[str]:
        async with asynccontextmanager(inner)() as b:
            yield a + b

    second.__annotations__["a"] = Annotated[str, Depends(first)]  # nobody finds it by its name, once we have returned
    return first, asynccontextmanager(second)


# -- values


async def test_every_kind_of_dependency() -> None:
    """Plain and coroutine functions, generators of both kinds, context managers, classes, methods, objects, threads."""
    log = Log()

    def generator() -> Iterator[int]:
        log.append("+generator")
        yield 3
        log.append("-generator")

    @contextmanager
    def manager() -> Iterator[int]:
        log.append("+manager")
        yield 4
        log.append("-manager")

    @asynccontextmanager
    async def async_manager(n: int) -> AsyncIterator[int]:
        yield n

    async def coroutine(one: Annotated[int, Depends(lambda: 1)]) -> int:
        return one + 1

    @blocking
    def in_a_thread(self: int) -> int:
        return self

    class Service:
        def __init__(self, x_name: Annotated[str, Header()] = "nobody") -> None:
            self.name = x_name

        def shout(self) -> str:
            return "loud"

        async def __call__(self) -> AsyncIterator[str]:
            yield "called"

    class Filter(msgspec.Struct):
        color: str = "red"
        sizes: list[int] = []

    app = App()

    @app.get("/")
    async def handler(
        one: Annotated[int, Depends(lambda: 1)],
        two: Annotated[int, Depends(coroutine)],
        three: Annotated[int, Depends(generator)],
        four: Annotated[int, Depends(manager)],
        five: Annotated[int, Depends(async_manager)],
        six: Annotated[int, Depends(in_a_thread)],
        service: Annotated[Service, Depends()],
        shouted: Annotated[str, Depends(Service().shout)],
        called: Annotated[str, Depends(Service())],
        chosen: Annotated[Filter, Depends()],
    ) -> list[Any]:
        return [one, two, three, four, five, six, service.name, shouted, called, chosen]

    async with TestClient(app) as client:
        response = await client.get("/?n=5&self=6&color=blue&sizes=1&sizes=2", headers={"x-name": "me"})
        assert response.json() == [
            1, 2, 3, 4, 5, 6, "me", "loud", "called", {"color": "blue", "sizes": [1, 2]}
        ]  # fmt: skip
        assert (await client.get("/?n=5&self=6")).json()[-1] == {"color": "red", "sizes": []}
    assert log.take() == " ".join(["+generator +manager -manager -generator"] * 2)


async def test_one_value_for_a_request() -> None:
    """However many ask for it; and another one for the next request."""
    made = 0

    def counted() -> int:
        nonlocal made
        made += 1
        return made

    def left(n: Annotated[int, Depends(counted)]) -> int:
        return n

    async def right(n: Annotated[int, Depends(counted)]) -> int:
        return n

    app = App()

    @app.get("/")
    def handler(
        a: Annotated[int, Depends(left)], b: Annotated[int, Depends(right)], c: Annotated[int, Depends(counted)]
    ) -> list[int]:
        return [a, b, c]

    async with TestClient(app) as client:
        assert (await client.get("/")).json() == [1, 1, 1]
        assert (await client.get("/")).json() == [2, 2, 2]


async def test_wrong_fields_of_dependencies() -> None:
    """All that do not fit are listed at once, those of the handler too, each once; what needs them is not called."""
    app = App()

    def page(offset: int, limit: int = 10) -> int:
        return offset

    def never(page: Annotated[int, Depends(page)]) -> int:
        raise AssertionError("must not be called")

    @app.get("/{number}")
    def handler(
        number: int,
        a: Annotated[int, Depends(never)],
        b: Annotated[int, Depends(page)],
        x_key: Annotated[int, Header()],
    ) -> int:
        raise AssertionError("must not be called")

    async with TestClient(app) as client:
        response = await client.get("/x?offset=y&limit=z")
    errors = [(error["place"], error["name"]) for error in response.json()["errors"]]
    assert response.status == 422
    assert errors == [("query", "offset"), ("query", "limit"), ("path", "number"), ("header", "x-key")]


async def test_a_plain_function_that_returns_a_coroutine() -> None:
    """It is a fault that is said, not a value that nobody awaits."""
    app = App()

    async def late() -> int:
        return 1

    @app.get("/")
    def handler(n: Annotated[Any, Depends(lambda: late())]) -> int:
        return 1

    async with TestClient(app) as client:
        with pytest.raises(TypeError, match="declare it with async def"):
            await client.get("/")


# -- closing


async def test_closed_after_the_response() -> None:
    """In reverse order, once the answer is out: the client has it while they are still open."""
    log = Log()
    _, second = two(log)
    may_close = asyncio.Event()

    async def slow(b: Annotated[str, Depends(second)]) -> AsyncIterator[str]:
        yield b
        await may_close.wait()
        log.append("-slow")

    app = App()

    @app.get("/")
    async def handler(b: Annotated[str, Depends(slow)]) -> str:
        log.append("handler")
        return b

    async with TestClient(app) as client:
        response = await client.get("/")
        assert response.text == "ab"
        assert log.take() == "+a +b handler"
        may_close.set()
        await eventually(lambda: len(log) == 3)
        assert log.take() == "-slow -b -a"


async def test_a_client_that_has_its_answer_interrupts_no_close() -> None:
    """It may leave at once: what is committed then is committed."""
    log = Log()
    began, may_go_on = asyncio.Event(), asyncio.Event()

    async def transaction() -> AsyncIterator[str]:
        yield "tx"
        began.set()
        await may_go_on.wait()
        log.append("committed")

    app = App()

    @app.get("/")
    async def handler(tx: Annotated[str, Depends(transaction)]) -> str:
        return tx

    @app.get("/stream")
    async def stream(tx: Annotated[str, Depends(transaction)]) -> AsyncIterator[str]:
        yield tx

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        for path in ("/", "/stream"):
            began.clear()
            may_go_on.clear()
            async with raw_client(server.addresses[0].port) as client:
                assert (await client.get(path))[0] == 200
                await asyncio.wait_for(began.wait(), 5)
                client.abort()
            await eventually(lambda: server.statistics()["connections"]["connections"] == 0)
            may_go_on.set()
            await eventually(lambda: len(log) == 1)
            assert log.take() == "committed"


async def failing() -> int:
    """A dependency that fails."""
    raise LookupError("dependency")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/fine?n=1", 200, "+a +b -b -a"),
        ("/error?n=1", 500, "+a +b !b LookupError -b !a LookupError -a"),
        ("/denied?n=1", 403, "+a +b !b HTTPError -b !a HTTPError -a"),
        ("/later?n=1", 500, "+a +b !b LookupError -b !a LookupError -a"),
        ("/fine?n=x", 422, "+a +b !b ValidationError -b !a ValidationError -a"),
        ("/unsendable?n=1", 500, "+a +b !b NotImplementedError -b !a NotImplementedError -a"),
        ("/timeout?n=1", 504, "+a +b !b CancelledError -b !a CancelledError -a"),
    ],
)
async def test_the_ways_a_request_ends(path: str, status: int, said: str) -> None:
    """Every one closes all that is open, once, in reverse order, and what failed is raised at the ``yield``."""
    log = Log()
    _, second = two(log)
    Second = Annotated[str, Depends(second)]  # noqa: N806  # a type
    app = App()

    @app.get("/fine")
    async def fine(b: Second, n: int) -> str:
        return b

    @app.get("/error")
    async def error(b: Second, n: int) -> str:
        raise LookupError("handler")

    @app.get("/denied")
    def denied(b: Second, n: int) -> str:
        raise HTTPError(403, "no")

    @app.get("/later")
    def later(b: Second, c: Annotated[int, Depends(failing)]) -> str:
        return b

    @app.get("/unsendable")
    async def unsendable(b: Second) -> Any:
        return object()

    @app.get("/timeout", timeout=0.05)
    async def timeout(b: Second) -> None:
        await asyncio.Event().wait()

    async with TestClient(app, raise_errors=False) as client:
        response = await client.get(path)
        assert response.status == status
        await eventually(lambda: log[-1:] == ["-a"])
    assert log.take() == said


@pytest.mark.parametrize("way", ["leaves", "timeout"])
async def test_a_close_after_a_failure_is_not_interrupted(way: str) -> None:
    """The client leaves, or the time is up, while a transaction is rolled back: that goes on to its end."""
    log = Log()
    began, may_go_on = asyncio.Event(), asyncio.Event()

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "tx"
        finally:
            began.set()
            await may_go_on.wait()
            log.append("rolled back")

    app = App()

    @app.get("/", timeout=0.05 if way == "timeout" else None)
    async def handler(tx: Annotated[str, Depends(transaction)]) -> None:
        raise HTTPError(409, "conflict")

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(began.wait(), 5)
            if way == "timeout":
                assert (await client.response())[0] == 504
        await eventually(lambda: server.statistics()["connections"]["connections"] == 0)
        assert not log
        may_go_on.set()
        await eventually(lambda: log == ["rolled back"])


async def test_a_client_that_leaves_a_handler() -> None:
    """It is told as cancellation."""
    log = Log()
    _, second = two(log)
    began = asyncio.Event()
    app = App()

    @app.get("/")
    async def handler(b: Annotated[str, Depends(second)]) -> None:
        began.set()
        await asyncio.Event().wait()

    @app.post("/content")
    async def content(b: Annotated[str, Depends(second)], request: Request) -> None:
        began.set()
        await request.body()

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        for head in (b"GET / HTTP/1.1\r\n", b"POST /content HTTP/1.1\r\ncontent-length: 5\r\n"):
            began.clear()
            async with raw_client(server.addresses[0].port) as client:
                await client.send(head + b"host: a\r\n\r\n")
                await asyncio.wait_for(began.wait(), 5)
            await eventually(lambda: log[-1:] == ["-a"])
            name = "CancelledError" if head.startswith(b"GET") else "ConnectionClosed"
            assert log.take() == f"+a +b !b {name} -b !a {name} -a"


@pytest.mark.parametrize("way", ["leaves", "fails", "timeout", "ends"])
async def test_the_ways_a_stream_ends(way: str) -> None:
    """Dependencies of a streamed answer live as long as it does, and hear once of what cut it."""
    log = Log()
    _, second = two(log)
    app = App()
    going = asyncio.Event()

    @app.get("/", timeout=0.2 if way == "timeout" else None)
    async def handler(b: Annotated[str, Depends(second)]) -> AsyncIterator[str]:
        async def pieces() -> AsyncIterator[str]:
            try:
                yield b
                going.set()
                if way == "fails":
                    raise LookupError("stream")
                if way != "ends":
                    await asyncio.Event().wait()
            finally:
                log.append("stream")

        return pieces()

    async with (
        running(HTTPServer(app, bind="http://127.0.0.1:0")) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(going.wait(), 5)
        if way == "leaves":
            client.abort()
        await eventually(lambda: log[-1:] == ["-a"])
    name = {"fails": "LookupError", "ends": ""}.get(way, "CancelledError")
    expected = f"+a +b stream !b {name} -b !a {name} -a" if name else "+a +b stream -b -a"
    assert log.take() == expected


async def test_cancelled_at_shutdown() -> None:
    """Handlers that still run when the server stops are cancelled, and their dependencies closed before the lifespan
    and those of the application are left."""
    log = Log()
    _, second = two(log)
    began = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        log.append("(")
        yield
        log.append(")")

    app = App(lifespan=lifespan)

    @app.get("/")
    async def handler(
        pool: Annotated[str, Depends(log.resource("pool"), scope="app")], b: Annotated[str, Depends(second)]
    ) -> None:
        began.set()
        await asyncio.Event().wait()

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    async with raw_client(server.addresses[0].port) as client:
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(began.wait(), 5)
        await server.stop()
    assert log.take() == "( +pool +a +b !b CancelledError -b !a CancelledError -a -pool )"


async def test_what_a_close_raises() -> None:
    """Before the answer it takes the place of the error; a close that swallows it does not help; after the answer it is
    logged and does no harm, and the others are closed all the same."""
    log = Log()
    app = App()

    async def translates(a: Annotated[str, Depends(log.resource("a"))]) -> AsyncIterator[str]:
        try:
            yield a
        except LookupError:
            raise HTTPError(409, "translated") from None

    async def swallows(a: Annotated[str, Depends(log.resource("a"))]) -> AsyncIterator[str]:
        try:
            yield a
        except LookupError:
            log.append("swallowed")

    async def breaks(a: Annotated[str, Depends(log.resource("a"))]) -> AsyncIterator[str]:
        yield a
        raise RuntimeError("close")

    async def twice(a: Annotated[str, Depends(log.resource("a"))]) -> AsyncIterator[str]:
        yield a
        yield a

    @app.get("/translates")
    async def translated(a: Annotated[str, Depends(translates)]) -> None:
        raise LookupError

    @app.get("/swallows")
    async def swallowed(a: Annotated[str, Depends(swallows)]) -> None:
        raise LookupError

    @app.get("/breaks")
    async def broken(a: Annotated[str, Depends(breaks)]) -> str:
        return "fine"

    @app.get("/twice")
    async def two_yields(a: Annotated[str, Depends(twice)]) -> str:
        return "fine"

    async with TestClient(app, raise_errors=False) as client:
        assert (await client.get("/translates")).status == 409
        assert log.take() == "+a !a HTTPError -a"
        assert (await client.get("/swallows")).status == 500
        assert log.take() == "+a swallowed -a"
        for path in ("/breaks", "/twice"):
            with capture_logs() as events:
                assert (await client.get(path)).text == "fine"
                await eventually(lambda: log[-1:] == ["-a"])
                assert (await client.get("/translates")).status == 409
            assert [event["event"] for event in events] == ["handler failed"]
            assert log.take() == "+a !a RuntimeError -a +a !a HTTPError -a"


async def test_middleware_that_fails_behind_the_handler() -> None:
    """Its answer is no success, so dependencies hear of it: a transaction is rolled back."""
    log = Log()

    async def breaks(request: Request, call_next: Any) -> Response:
        await call_next(request)
        raise LookupError("behind")

    async def again(request: Request, call_next: Any) -> Any:
        first = await call_next(request)
        assert first.status == 200
        return await call_next(request)

    app = App()

    @app.get("/breaks", middleware=[breaks])
    @app.get("/again", middleware=[again])
    async def handler(a: Annotated[str, Depends(log.resource("a"))]) -> str:
        return a

    async with TestClient(app, raise_errors=False) as client:
        assert (await client.get("/breaks")).status == 500
        await eventually(lambda: log[-1:] == ["-a"])
        assert log.take() == "+a !a LookupError -a"
        assert (await client.get("/again")).text == "a"
        await eventually(lambda: len(log) == 4)
        assert log.take() == "+a +a -a -a"


# -- the application's


async def test_dependencies_of_the_application() -> None:
    """Made once at the start, in order, also for those that only others need; closed at the end in reverse order; and
    again when it starts again. They can have the application and its state."""
    log = Log()

    class Settings:
        dsn = "db"

    async def pool(settings: Settings, app: App[Settings]) -> AsyncIterator[str]:
        log.append(f"+pool {settings.dsn} {app.name}")
        yield "pool"
        log.append("-pool")

    @asynccontextmanager
    async def cache(pool: Annotated[str, Depends(pool, scope="app")]) -> AsyncIterator[str]:
        log.append("+cache")
        yield f"{pool} cache"
        log.append("-cache")

    def session(cache: Annotated[str, Depends(cache, scope="app")], x: str = "") -> str:
        return f"{cache} {x}"

    app = App("main", state=Settings())

    @app.get("/")
    def handler(s: Annotated[str, Depends(session)], p: Annotated[str, Depends(pool, scope="app")]) -> list[str]:
        return [s, p]

    for _ in range(2):
        async with TestClient(app) as client:
            for x in "ab":
                assert (await client.get(f"/?x={x}")).json() == [f"pool cache {x}", "pool"]
        assert log.take() == "+pool db main +cache -cache -pool"


async def test_an_application_that_does_not_start() -> None:
    """What was opened is closed, the lifespan as well; it can be mended and started again."""
    log = Log()

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        log.append("(")
        try:
            yield
        finally:
            log.append(")")

    async def broken(a: Annotated[str, Depends(log.resource("a"), scope="app")]) -> str:
        raise LookupError("pool")

    app = App(lifespan=lifespan)

    @app.get("/")
    def handler(b: Annotated[str, Depends(broken, scope="app")]) -> str:
        return b

    with pytest.raises(LookupError, match="pool"):
        await app.startup()
    assert log.take() == "( +a !a LookupError -a )"
    app.overrides[broken] = lambda: "mended"
    app.get("/more")(handler)  # it does not serve
    async with TestClient(app) as client:
        assert (await client.get("/more")).text == "mended"
    assert log.take() == "( )"


async def test_overrides() -> None:
    """Another function stands in, of any kind, with its own dependencies; the next start has others; clearing them
    brings back the first."""
    log = Log()
    original = log.resource("real")

    def user(name: Annotated[str, Depends(original)]) -> str:
        return name

    app = App()

    @app.get("/")
    def handler(who: Annotated[str, Depends(user)], pool: Annotated[str, Depends(log.resource("p"), "app")]) -> str:
        return who

    async def fake(q: str = "fake") -> str:
        return q

    async def generator(fake: Annotated[str, Depends(fake)]) -> AsyncIterator[str]:
        yield fake
        log.append("-generator")

    @blocking
    def in_a_thread() -> str:
        return "thread"

    async def ask(overrides: dict[Any, Any]) -> str:
        async with TestClient(app, overrides=overrides) as client:
            text = (await client.get("/?q=1")).text
        return f"{text}: {log.take()}"

    assert await ask({}) == "real: +p +real -real -p"
    assert await ask({original: lambda: "plain"}) == "plain: +p -p"
    assert await ask({original: fake}) == "1: +p -p"
    assert await ask({original: generator}) == "1: +p -generator -p"
    assert await ask({original: generator, fake: lambda: "deep"}) == "deep: +p -generator -p"
    assert await ask({original: in_a_thread}) == "thread: +p -p"
    assert await ask({user: lambda: "user"}) == "user: +p -p"
    assert await ask({}) == "real: +p +real -real -p"


async def test_an_override_that_cannot_be() -> None:
    """The start fails, and says why; without it the application starts."""
    app = App()

    def one() -> int:
        return 1

    def needs(thing: complex) -> int:
        return 1

    @app.get("/")
    def handler(n: Annotated[int, Depends(one)]) -> int:
        return n

    for _ in range(2):
        app.overrides = {one: needs}
        with pytest.raises(TypeError, match="nothing in a request provides parameter thing"):
            await app.startup()
    app.overrides = {}
    async with TestClient(app) as client:
        assert (await client.get("/")).json() == 1


# -- WebSockets


async def test_dependencies_of_a_websocket() -> None:
    """They are there before the handshake is answered, live as long as the WebSocket, and can refuse it."""
    log = Log()
    _, second = two(log)
    app = App()

    async def guard(b: Annotated[str, Depends(second)], token: Annotated[str, Query()] = "") -> str:
        if token != "open":
            raise HTTPError(403, "closed")
        return b

    @app.websocket("/{room}")
    async def handler(ws: WebSocket, room: str, b: Annotated[str, Depends(guard)], n: int = 0) -> None:
        async for message in ws:
            if message == "break":
                raise LookupError("handler")
            await ws.send(f"{room}{b}{n}{message!s}")

    async with TestClient(app, raise_errors=False) as client:
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/x"):
                pass
        assert denied.value.status == 403
        assert log.take() == "+a +b !b HTTPError -b !a HTTPError -a"
        with pytest.raises(WebSocketDenied) as unfit:
            async with client.websocket("/x?token=open&n=y"):
                pass
        assert unfit.value.status == 422
        assert log.take() == "+a +b !b ValidationError -b !a ValidationError -a"
        async with client.websocket("/x?token=open&n=7") as ws:
            await ws.send("hello")
            assert await ws.receive() == "xab7hello"
            assert log.take() == "+a +b"
        await eventually(lambda: log[-1:] == ["-a"])
        assert log.take() == "-b -a"
        async with client.websocket("/x?token=open") as ws:
            await ws.send("break")
            assert await ws.wait_closed() == 1011
        await eventually(lambda: log[-1:] == ["-a"])
        assert log.take() == "+a +b !b LookupError -b !a LookupError -a"


async def test_a_websocket_that_ends_before_it_begins() -> None:
    """Its handler never runs, its dependencies are closed: the application stops in the very step of the handshake."""
    log = Log()
    _, second = two(log)
    app = App()
    left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stops(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        await app.socket_tasks.cancel()  # before the first step of the handler
        left.set_result(None)
        return response

    @app.websocket("/", middleware=[stops])
    async def handler(ws: WebSocket, b: Annotated[str, Depends(second)]) -> None:
        log.append("handler")

    async with TestClient(app) as client, client.websocket("/"):
        await asyncio.wait_for(left, 5)
        await eventually(lambda: log[-1:] == ["-a"])
    assert log.take() == "+a +b !b CancelledError -b !a CancelledError -a"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_websocket_that_leaves_while_it_is_closed(fails: bool) -> None:
    """Once the handler has ended, its dependencies are closed to the end, whoever leaves meanwhile."""
    log = Log()
    began, may_go_on = asyncio.Event(), asyncio.Event()

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "tx"
        finally:
            began.set()
            await may_go_on.wait()
            log.append("closed")

    app = App()

    @app.websocket("/")
    async def handler(ws: WebSocket, tx: Annotated[str, Depends(transaction)]) -> None:
        if fails:
            raise LookupError

    async with TestClient(app, raise_errors=False) as client:
        async with client.websocket("/"):
            await asyncio.wait_for(began.wait(), 5)
        await eventually(lambda: client.server.statistics()["in_flight"] == 0)
        for _ in range(20):  # turns of the loop, for the server to see that it left
            await asyncio.sleep(0)
        assert not log
        may_go_on.set()
        await eventually(lambda: log == ["closed"])


async def test_websockets_at_shutdown() -> None:
    """They are closed before what the application holds."""
    log = Log()
    app = App()
    began = asyncio.Event()

    @app.websocket("/")
    async def handler(
        ws: WebSocket,
        pool: Annotated[str, Depends(log.resource("pool"), scope="app")],
        a: Annotated[str, Depends(log.resource("a"))],
    ) -> None:
        began.set()
        await asyncio.Event().wait()

    async with TestClient(app) as client, client.websocket("/"):
        await asyncio.wait_for(began.wait(), 5)
        await app.socket_tasks.cancel()
    assert log.take() == "+pool +a !a CancelledError -a -pool"
