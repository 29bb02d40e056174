"""The ASGI host over real sockets: what applications are told, and what becomes of what they send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.http import HTTPServer
from forebay.http.asgi import ASGIApplication, ClientDisconnected
from tests.support import RawClient, eventually, raw_client, running

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

PLAIN = [(b"content-type", b"text/plain")]


def only_http(handler: Handler) -> Handler:
    """``handler`` for requests; nothing else is known to it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not known here")
        await handler(scope, receive, send)

    return app


def start(status: int = 200, headers: Any = (), **more: Any) -> dict[str, Any]:
    """The first message of an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    """A message with content."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: dict[str, Any]) -> Handler:
    """An application that sends ``messages``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return only_http(app)


@asynccontextmanager
async def serving(app: Handler, **options: Any) -> AsyncIterator[HTTPServer]:
    """A server of ``app``."""
    server = HTTPServer(ASGIApplication(app, **options), bind="http://127.0.0.1:0")
    async with running(server):
        yield server


@asynccontextmanager
async def client_of(app: Handler, **options: Any) -> AsyncIterator[RawClient]:
    """A client of a server of ``app``."""
    async with serving(app, **options) as server, raw_client(server.addresses[0].port) as client:
        yield client


async def tell_scope(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the scope."""
    await send(start())
    await send(body(json.dumps(scope, default=lambda value: value.decode("latin-1")).encode()))


# -- the scope


async def test_the_scope_tells_of_the_request() -> None:
    """By the specification: decoded path, raw path, lower-case names, both ends."""
    async with serving(only_http(tell_scope)) as server, raw_client(server.addresses[0].port) as client:
        for _ in range(3):  # headers that come again are remembered
            _, _, content = await client.get("/a%20b/%C3%A4%FF?x=%201", X_Two="b  ", Cookie="k=v")
            scope = json.loads(content)
            assert scope["headers"] == [["host", "test"], ["x-two", "b"], ["cookie", "k=v"]]
        port = client.writer.get_extra_info("sockname")[1]
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert (scope["method"], scope["http_version"], scope["scheme"]) == ("GET", "1.1", "http")
    assert (scope["path"], scope["raw_path"]) == ("/a b/ä\ufffd", "/a%20b/%C3%A4%FF")
    assert (scope["query_string"], scope["root_path"], scope["state"]) == ("x=%201", "", {})
    assert scope["client"] == ["127.0.0.1", port]
    assert scope["server"] == ["127.0.0.1", server.addresses[0].port]


async def test_a_root_path_comes_before_every_path() -> None:
    """Which the proxy in front had removed."""
    async with client_of(only_http(tell_scope), root_path="/the api") as client:
        scope = json.loads((await client.get("/x%20y"))[2])
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/the api", "/the api/x y", "/the%20api/x%20y")


@pytest.mark.parametrize("root_path", ["api", "/api/", "/"])
def test_a_root_path_that_is_none_is_refused(root_path: str) -> None:
    """It would give paths that nothing matches."""
    with pytest.raises(ValueError, match="as in /api"):
        ASGIApplication(tell_scope, root_path=root_path)


async def test_the_scope_on_a_unix_socket(tmp_path: Path) -> None:
    """The server is its path; the client is nobody."""
    path = tmp_path / "s"
    server = HTTPServer(ASGIApplication(only_http(tell_scope)), bind=f"unix://{path}")
    async with running(server):
        client = RawClient(*await asyncio.open_unix_connection(str(path)))
        scope = json.loads((await client.get("/"))[2])
        await client.close()
    assert (scope["server"], scope["client"]) == ([str(path), None], None)


async def test_scopes_are_not_shared() -> None:
    """An application may change its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"].append((b"more", b"1"))
        scope["state"]["seen"] = True
        scope["extensions"]["mine"] = {}
        await tell_scope(scope, receive, send)

    async with client_of(only_http(app)) as client:
        answers = [json.loads((await client.get("/"))[2]) for _ in range(3)]
    assert [len(scope["headers"]) for scope in answers] == [2, 2, 2]


@pytest.mark.parametrize(
    ("request_head", "extensions"),
    [
        ("GET / HTTP/1.0\r\n\r\n", ["http.response.pathsend"]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ["http.response.early_hint", "http.response.pathsend"]),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, Trailers\r\n\r\n",
            ["http.response.early_hint", "http.response.pathsend", "http.response.trailers"],
        ),
    ],
)
async def test_extensions_are_advertised_where_they_work(request_head: str, extensions: list[str]) -> None:
    """For HTTP/1.0 there is less, and trailers are for clients that take them."""
    async with client_of(only_http(tell_scope)) as client:
        await client.send(request_head.encode())
        _, _, content = await client.response()
    assert sorted(json.loads(content)["extensions"]) == extensions


# -- what an application receives


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the content, and with the sizes of the messages it came in."""
    pieces = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        pieces.append(message["body"])
        if not message["more_body"]:
            break
    await send(start(200, [(b"x-pieces", b"%d" % len(pieces))]))
    await send(body(b"".join(pieces)))


async def test_content_that_came_with_its_head_is_one_message() -> None:
    """And no content is one empty message."""
    async with client_of(only_http(echo)) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert (await client.response())[2] == b"hello"
        _, headers, content = await client.get("/")
        assert (headers["x-pieces"], content) == ("1", b"")


async def test_content_comes_as_it_arrives() -> None:
    """Piece by piece, chunked or not."""
    got = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        assert (first["body"], first["more_body"]) == (b"ab", True)
        got.set()
        rest = b""
        while (message := await receive())["more_body"]:
            rest += message["body"]
        await send(start())
        await send(body(rest + message["body"]))

    async with client_of(only_http(app)) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await asyncio.wait_for(got.wait(), 5)
        await client.send(b"3\r\ncde\r\n0\r\n\r\n")
        assert (await client.response())[2] == b"cde"


async def test_the_client_waits_for_an_application_that_does_not_receive() -> None:
    """What came meanwhile is bounded, and nothing is lost."""
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            sizes.append(len(message["body"]))
            if len(sizes) == 1:
                await asyncio.sleep(0.2)  # time for all of it to come, were it not held back
            if not message["more_body"]:
                break
        await send(start())
        await send(body())

    size = 8_000_000
    async with client_of(only_http(app)) as client:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        await asyncio.gather(client.send(head + bytes(size)), client.response(timeout=10))
    assert sum(sizes) == size
    assert max(sizes) < 1_000_000


async def test_a_client_that_expects_it_is_asked_for_content_by_receive() -> None:
    """And not by an application that answers without it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/want":
            await receive()
        await send(start(200 if scope["path"] == "/want" else 403))
        await send(body())

    head = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with serving(only_http(app)) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(head % b"/want")
            assert (await client.response())[0] == 100
            await client.send(b"ok")
            assert (await client.response())[0] == 200
        async with raw_client(server.addresses[0].port) as client:
            await client.send(head % b"/refuse")
            assert (await client.response())[0] == 403


async def test_a_client_that_leaves_is_told_of_and_cancels_nothing() -> None:
    """``http.disconnect`` from receive, an OSError from send; the application goes on."""
    seen: list[Any] = []
    begun = asyncio.Event()
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        seen.append(await receive())
        await asyncio.sleep(0)
        try:
            await send(start())
        except OSError as error:
            seen.append(error)
        seen.append(await receive())
        done.set()

    async with client_of(only_http(app)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        left = asyncio.get_running_loop().time()
        client.abort()
        await asyncio.wait_for(done.wait(), 5)
        assert asyncio.get_running_loop().time() - left < 0.1
    assert seen[0] == seen[2] == {"type": "http.disconnect"}
    assert isinstance(seen[1], ClientDisconnected)
    assert "http.response.start" in str(seen[1])


async def test_a_client_that_leaves_in_its_content_is_told_of() -> None:
    """Without the end of the content."""
    messages: list[Any] = []
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        messages.append(await receive())
        done.set()

    async with client_of(only_http(app)) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        await eventually(lambda: messages)
        client.abort()
        await asyncio.wait_for(done.wait(), 5)
    assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]


async def test_receive_tells_of_the_end_once_the_answer_is_complete() -> None:
    """To whoever waits for it in another task, and to whoever asks afterwards."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        await send(start())
        await send(body(b"1", more=True))
        assert not waiting.done()
        await send(body(b"2"))
        seen.append((await waiting)["type"])
        seen.append((await receive())["type"])

    async with client_of(only_http(app)) as client:
        assert (await client.get("/"))[2] == b"12"
        await eventually(lambda: len(seen) == 2)
    assert seen == ["http.disconnect"] * 2


# -- what an application sends


async def test_head_and_content_leave_as_one_with_their_length() -> None:
    """Where the application does not say how long its content is, the server does."""
    async with client_of(sends(start(201, [(b"X-A", b"1"), [b"x-b", b"2"]]), body(b"abc"))) as client:
        for _ in range(3):
            status, headers, content = await client.get("/")
            assert (status, content) == (201, b"abc")
            assert list(headers) == ["x-a", "x-b", "content-length", "date", "server"]


async def test_streamed_content_is_chunked_or_as_long_as_it_said() -> None:
    """The head leaves with the first piece, also with an empty one."""
    parts = [body(b"", more=True), body(b"ab", more=True), body(b"c", more=True), body()]
    async with client_of(sends(start(), *parts)) as client:
        _, headers, content = await client.get("/")
        assert (headers["transfer-encoding"], content) == ("chunked", b"abc")
    async with client_of(sends(start(200, [(b"content-length", b"3")]), *parts)) as client:
        _, headers, content = await client.get("/")
        assert (headers["content-length"], content) == ("3", b"abc")


async def test_an_empty_first_piece_sends_the_head() -> None:
    """Server-sent events begin that way."""
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"", more=True))
        await go.wait()
        await send(body(b"x"))

    async with client_of(only_http(app)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while await client.line() != b"\r\n":
            pass
        go.set()
        assert await client.line() == b"1\r\n"


async def test_framing_is_the_servers() -> None:
    """An application's own ``transfer-encoding`` is dropped; its ``connection: close`` is heeded."""
    headers = [(b"Transfer-Encoding", b"chunked"), (b"Connection", b"x, Close")]
    async with client_of(sends(start(200, headers), body(b"abc"))) as client:
        status, got, content = await client.get("/")
        assert (status, content, got["content-length"]) == (200, b"abc", "3")
        assert got["connection"] == "close"
        assert "transfer-encoding" not in got
        assert await client.rest() == b""


async def test_an_applications_own_date_and_server_are_kept() -> None:
    """Each once; a date there always is."""
    own = [(b"date", b"Sat, 01 Jan 2000 00:00:00 GMT"), (b"server", b"mine")]
    for headers in (own, own[1:]):
        async with client_of(sends(start(200, headers), body(b"x"))) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            lines = (await client.rest()).split(b"\r\n")
        assert [line for line in lines if line.startswith(b"server:")] == [b"server: mine"]
        (date,) = [line for line in lines if line.startswith(b"date:")]
        assert (date == b"date: Sat, 01 Jan 2000 00:00:00 GMT") == (headers is own)


@pytest.mark.parametrize(
    ("method", "status", "headers", "content", "expected"),
    [
        ("HEAD", 200, [(b"content-length", b"9")], b"", ("9", None)),
        ("HEAD", 200, [(b"content-length", b"3")], b"abc", ("3", None)),
        ("HEAD", 200, [], b"abc", ("3", None)),
        ("HEAD", 200, [], b"", (None, "chunked")),
        ("GET", 204, [], b"", (None, None)),
        ("GET", 204, [(b"content-length", b"0")], b"", (None, None)),
        ("GET", 304, [(b"content-length", b"9")], b"", ("9", None)),
        ("GET", 304, [], b"", (None, None)),
    ],
)
async def test_answers_without_content(
    method: str, status: int, headers: Any, content: bytes, expected: tuple[str | None, str | None]
) -> None:
    """RFC 9110 sections 9.3.2, 15.3.5 and 15.4.5: nothing follows the head, and the connection goes on."""
    async with client_of(sends(start(status, headers), body(content))) as client:
        for _ in range(2):
            await client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            got, fields, _ = await client.response(head_only=True)
            assert got == status
            assert (fields.get("content-length"), fields.get("transfer-encoding")) == expected


async def test_streaming_to_head() -> None:
    """Sends no content, however much the application gives."""
    async with client_of(sends(start(), body(b"abc", more=True), body(b"def"))) as client:
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response(head_only=True))[0] == 200


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([body(b"x")], "http.response.body was sent, but http.response.start comes first"),
        ([{"type": "http.response.trailers"}], "http.response.start comes first"),
        ([start(), start()], "http.response.start was sent, but http.response.body is to follow"),
        ([start(), {"type": "websocket.accept"}], "websocket.accept was sent, but http.response.body is to follow"),
        ([start(101)], "status 101: must be 200 to 599"),
        ([start(99)], "status 99"),
        ([start(200, [("x", "y")])], "must be bytes"),
        ([start(200, [(b"x y", b"z")])], "is not a token"),
        ([start(200, [(b"x", b"a\r\nb: c")])], "control character"),
        ([start(200, [(b"content-length", b"-1")])], "is no number"),
        ([start(200, [(b"content-length", b"1"), (b"content-length", b"2")])], "both 1 and 2"),
        ([start(200, [(b"content-length", b"1")]), body(b"ab")], "has 2 bytes, but content-length is 1"),
        ([start(200, [(b"content-length", b"3")]), body(b"ab")], "has 2 bytes, but content-length is 3"),
        ([start(), {"type": "http.response.pathsend", "path": "/nowhere/at/all"}], "No such file"),
    ],
)
async def test_what_has_no_place_is_an_error_of_the_application(messages: list[dict[str, Any]], said: str) -> None:
    """It is told which message came and what was to come; the client gets a 500 where nothing was sent yet."""
    with capture_logs() as logs:
        async with client_of(sends(*messages)) as client:
            status, headers, _ = await client.get("/")
            assert (status, headers["content-type"]) == (500, "application/problem+json")
            assert (await client.get("/"))[0] == 500  # the connection goes on
    errors = [entry for entry in logs if entry["event"] == "application failed"]
    assert said in str(errors[0]["exc_info"])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([start(200, [(b"content-length", b"2")]), body(b"a", True), body(b"bc")], "3 bytes so far"),
        ([start(200, [(b"content-length", b"9")]), body(b"a", True), body(b"b")], "ended after 2 bytes"),
        ([start(), body(b"a", True), start()], "more http.response.body is to follow"),
    ],
)
async def test_an_answer_that_cannot_be_completed_is_cut(messages: list[dict[str, Any]], said: str) -> None:
    """So that the client notices."""
    with capture_logs() as logs:
        async with client_of(sends(*messages)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"0\r\n\r\n" not in await client.rest()
    assert said in str(next(entry["exc_info"] for entry in logs if "exc_info" in entry))


async def test_a_message_after_the_end_is_an_error_that_harms_no_answer() -> None:
    """It is logged."""
    with capture_logs() as logs:
        async with client_of(sends(start(), body(b"all"), body(b"more"))) as client:
            assert (await client.get("/"))[2] == b"all"
            assert (await client.get("/"))[2] == b"all"
    failed = [entry for entry in logs if entry["event"] == "application failed after its answer"]
    assert "the response is complete" in str(failed[0]["exc_info"])


@pytest.mark.parametrize("messages", [[], [start()]])
async def test_an_application_that_does_not_answer_is_a_500(messages: list[dict[str, Any]]) -> None:
    """And is logged with what was to come."""
    with capture_logs() as logs:
        async with client_of(sends(*messages)) as client:
            assert (await client.get("/"))[0] == 500
    assert any(entry["event"] == "application did not answer" for entry in logs)


async def test_an_application_that_stops_in_its_answer_is_cut() -> None:
    """The last chunk never comes."""
    async with client_of(sends(start(), body(b"a", more=True))) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.rest()).endswith(b"1\r\na\r\n")


async def test_an_application_that_raises_is_a_500_without_its_words() -> None:
    """They are in the log, with the traceback."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("secret")

    with capture_logs() as logs:
        async with client_of(only_http(app)) as client:
            status, _, content = await client.get("/")
    assert status == 500
    assert b"secret" not in content
    (entry,) = [entry for entry in logs if entry["event"] == "application failed"]
    assert isinstance(entry["exc_info"], LookupError)


async def test_a_slow_client_makes_send_wait() -> None:
    """What is sent is bounded by what the client takes; all of it comes."""
    sent = 0
    piece = bytes(1_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        for _ in range(64):
            await send(body(piece, more=True))
            sent += 1
        await send(body())

    async with client_of(only_http(app)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.line()
        await asyncio.sleep(0.1)  # all of it would be sent by then
        assert sent < 64
        total = 0
        while total < 64_000_000:
            total += len(await client.reader.read(1 << 20))
        await eventually(lambda: sent == 64)


async def test_a_slow_client_that_leaves_ends_the_wait() -> None:
    """With an OSError, and nothing in the log but at debug."""
    caught: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(body(bytes(1_000_000), more=True))
        except OSError as error:
            caught.append(error)
            raise RuntimeError("what frameworks make of it") from error

    with capture_logs() as logs:
        async with client_of(only_http(app)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.line()
            client.abort()
            await eventually(lambda: caught)
    assert isinstance(caught[0], ClientDisconnected)
    assert {entry["log_level"] for entry in logs if entry["event"].startswith("application") and "app" in entry} <= {
        "debug",
        "info",
    }


# -- extensions


async def test_early_hints() -> None:
    """RFC 8297: an interim answer with links, before the final one; not for HTTP/1.0."""
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
    async with client_of(sends(start(), hint, body(b"x"))) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.line() == b"HTTP/1.1 103 Early Hints\r\n"
        assert await client.line() == b"link: </a.css>; rel=preload\r\n"
        assert await client.line() == b"link: </b.js>; rel=preload\r\n"
        assert await client.line() == b"\r\n"
        assert (await client.response())[2] == b"x"
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.response())[0] == 200


async def test_trailers() -> None:
    """They come behind the last chunk."""
    first = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True}
    second = {"type": "http.response.trailers", "headers": [(b"x-time", b"2")]}
    async with client_of(sends(start(trailers=True), body(b"abc"), first, second)) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
            while await client.line() != b"\r\n":
                pass
            whole = b"3\r\nabc\r\n0\r\nx-sum: 1\r\nx-time: 2\r\n\r\n"
            assert await client.exactly(len(whole)) == whole


async def test_trailers_that_frame_a_message_are_refused() -> None:
    """RFC 9110 section 6.5.1."""
    trailers = {"type": "http.response.trailers", "headers": [(b"content-length", b"1")]}
    with capture_logs() as logs:
        async with client_of(sends(start(trailers=True), body(b"abc"), trailers)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
            await client.rest()
    assert "cannot be a trailer" in str(next(entry["exc_info"] for entry in logs if "exc_info" in entry))


async def test_a_file_by_its_path(tmp_path: Path) -> None:
    """With its length, for GET and HEAD, and the connection goes on."""
    file = tmp_path / "f"
    file.write_bytes(bytes(range(256)) * 4096)
    async with client_of(sends(start(200, PLAIN), {"type": "http.response.pathsend", "path": str(file)})) as client:
        for _ in range(2):
            status, headers, content = await client.get("/")
            assert (status, headers["content-length"]) == (200, "1048576")
            assert content == file.read_bytes()
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response(head_only=True))[1]["content-length"] == "1048576"


async def test_a_file_of_another_length_than_was_said(tmp_path: Path) -> None:
    """Is a 500."""
    (tmp_path / "f").write_bytes(b"abc")
    messages = [
        start(200, [(b"content-length", b"5")]),
        {"type": "http.response.pathsend", "path": str(tmp_path / "f")},
    ]
    async with client_of(sends(*messages)) as client:
        assert (await client.get("/"))[0] == 500


# -- work after the answer, draining and stopping


class Background:
    """An application that works on after its answer."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.stubborn = stubborn
        self.go = asyncio.Event()
        self.log: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.log.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(start())
        await send(body(b"done"))
        while True:
            try:
                await self.go.wait()
                self.log.append("worked")
                return
            except asyncio.CancelledError:
                self.log.append("cancelled")
                if not self.stubborn:
                    raise


async def test_draining_waits_for_work_after_the_answer() -> None:
    """The lifespan ends after it."""
    app = Background()
    async with serving(app) as server, raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"done"
        draining = asyncio.create_task(server.drain())
        assert await client.rest() == b""
        await asyncio.sleep(0)
        assert not draining.done()
        assert app.log == []
        app.go.set()
        await asyncio.wait_for(draining, 5)
        assert app.log == ["worked", "shutdown"]


async def test_draining_ends_at_its_owners_deadline() -> None:
    """Even where the application ignores every cancellation."""
    app = Background(stubborn=True)
    async with serving(app) as server, raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"done"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await server.drain()
        assert app.log == []  # stopping cancels it, not draining
    assert app.log == ["cancelled", "shutdown"]
    app.go.set()
    await eventually(lambda: app.log[-1] == "worked")


async def test_stopping_cancels_work_after_the_answer() -> None:
    """And then ends the lifespan."""
    app = Background()
    async with serving(app) as server, raw_client(server.addresses[0].port) as client:
        assert (await client.get("/"))[2] == b"done"
    assert app.log == ["cancelled", "shutdown"]


async def test_an_application_that_ignores_its_cancellation_is_reported() -> None:
    """With the place where it waits; the server stops all the same."""
    app = Background(stubborn=True)
    with capture_logs() as logs:
        async with serving(app) as server, raw_client(server.addresses[0].port) as client:
            assert (await client.get("/"))[2] == b"done"
    assert app.log == ["cancelled", "shutdown"]
    (entry,) = [entry for entry in logs if entry["event"] == "application ignores its cancellation"]
    assert "test_asgi.py:" in entry["place"]
    app.go.set()
    await eventually(lambda: app.log[-1] == "worked")


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Each by its own call, one after the other."""
    async with client_of(only_http(echo)) as client:
        many = b"".join(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(10))
        await client.send(many)
        assert [(await client.response())[2] for _ in range(10)] == [b"%d" % n for n in range(10)]


async def test_a_half_closed_client_is_answered() -> None:
    """It has only sent all it had (RFC 9112 section 9.6)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await send(start())
        await send(body(b"late"))

    async with client_of(only_http(app)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.send_eof()
        answer = await client.rest()
        assert answer.endswith(b"late")
