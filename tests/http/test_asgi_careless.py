"""Hosted applications that are careless: what they send is no HTTP, they never stop, they leave Tasks behind. Neither
their clients nor those of others are to suffer more than they must."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import sys
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

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def start(status: int = 200, headers: Any = (), **more: Any) -> dict[str, Any]:
    """The first message of an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    """A message with content."""
    return {"type": "http.response.body", "body": data, "more_body": more}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[HTTPServer]:
    """A server of ``handler``; ``/ok`` is answered without it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/ok":
            await send(start())
            await send(body(b"ok"))
        else:
            await handler(scope, receive, send)

    server = HTTPServer(ASGIApplication(app, lifespan="off"), bind="http://127.0.0.1:0")
    async with running(server):
        yield server


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[RawClient]:
    """A client of a server of ``handler``."""
    async with serving(handler) as server, raw_client(server.addresses[0].port) as client:
        yield client


def sends(*messages: dict[str, Any]) -> Handler:
    """An application that sends ``messages``."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return handler


async def still_serves(server: HTTPServer) -> None:
    """Somebody else is answered, in time."""
    async with raw_client(server.addresses[0].port) as other:
        assert (await other.get("/ok"))[2] == b"ok"


# -- what is sent in place of bytes


async def test_the_length_of_a_view_is_its_bytes() -> None:
    """A memoryview's own is in items: a client that believed it would take content for the next answer."""
    numbers = memoryview(array.array("I", [1, 2, 3]))
    async with client_of(sends(start(), body(numbers))) as client:
        for _ in range(2):
            status, headers, content = await client.get("/")
            assert (status, content) == (200, numbers.tobytes())
            assert headers["content-length"] == str(numbers.nbytes)


async def test_a_buffer_may_be_used_again() -> None:
    """What was sent is what was in it then, though a slow client takes it later."""
    size, count = 50_000, 200

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        buffer = bytearray(size)
        await send(start(200, [(b"content-length", b"%d" % (size * count))]))
        for number in range(count):
            buffer[:] = bytes([number]) * size
            await send(body(buffer, more=True))
        await send(body())

    async with client_of(handler) as client:
        content = (await client.get("/"))[2]
    assert content == b"".join(bytes([number]) * size for number in range(count))


HINT = {"type": "http.response.early_hint"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([start(), body("text")], "http.response.body has a str where bytes must be: 'text'"),
        ([start(), body(None)], "http.response.body has a NoneType where bytes must be: None"),
        ([start(), body(5)], "http.response.body has a int where bytes must be: 5"),
        ([{**HINT, "links": [7]}], "http.response.early_hint has a int where bytes must be: 7"),
        ([{**HINT, "links": "</a>"}], "http.response.early_hint has a str where bytes must be: '<'"),
        ([start(200, [(b"content-length", b"1" * 5000)])], "is no number"),
        ([start(200, [(b"content-length", b"4")]), body(b"hello", True)], "5 bytes so far, but content-length is 4"),
    ],
)
async def test_what_cannot_be_sent_is_a_500(messages: list[dict[str, Any]], said: str) -> None:
    """The application is told what was wrong with which message. Nothing was begun, so the connection goes on."""
    with capture_logs() as logs:
        async with client_of(sends(*messages)) as client:
            assert (await client.get("/"))[0] == 500
            assert (await client.get("/ok"))[2] == b"ok"
    (error,) = [entry["exc_info"] for entry in logs if entry["event"] == "application failed"]
    assert said in str(error)


async def test_text_in_the_middle_of_content_cuts_it() -> None:
    """What came before it is sent."""
    async with client_of(sends(start(), body(b"begun", True), body("text"))) as client:
        await client.send(GET)
        assert (await client.rest()).endswith(b"5\r\nbegun\r\n")


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_streamed_content_that_must_not_be_is_left_out(status: int) -> None:
    """Whatever was said of its length (RFC 9110 sections 6.4.1 and 15.3.6)."""
    pieces = start(status, [(b"content-length", b"5")]), body(b"he", True), body(b"llo!")
    async with client_of(sends(*pieces)) as client:
        for _ in range(2):
            assert (await client.get("/"))[::2] == (status, b"")


async def test_an_exit_is_a_failure_like_any_other() -> None:
    """Of the request; the server goes on, as other servers do."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        sys.exit(3)

    with capture_logs() as logs:
        async with client_of(handler) as client:
            assert (await client.get("/"))[0] == 500
            assert (await client.get("/ok"))[2] == b"ok"
    assert "application failed" in [entry["event"] for entry in logs]


# -- applications that never stop


async def test_the_head_leaves_before_the_content_that_does_not() -> None:
    """An endless stream has an answer to HEAD as well; and once its client is gone, it is told."""
    told: list[BaseException] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x" * 100, more=True))
        except OSError as error:
            told.append(error)
            raise

    async with serving(handler) as server:
        async with raw_client(server.addresses[0].port) as client:
            await client.send(HEAD)
            assert (await client.response(head_only=True))[0] == 200
            await still_serves(server)
        await eventually(lambda: told)  # though it may only have half-closed: it has had its whole answer
        assert isinstance(told[0], ClientDisconnected)
        await eventually(lambda: server.connections == 0)


async def test_empty_pieces_for_ever_leave_others_their_turn() -> None:
    """They never fill anything that would make them wait."""
    sent = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        while True:
            await send(body(b"", more=True))
            sent += 1

    async with serving(handler) as server, raw_client(server.addresses[0].port) as client:
        await client.send(GET)
        await eventually(lambda: sent > 1000)
        await still_serves(server)


async def test_receiving_for_ever_leaves_others_their_turn() -> None:
    """An application that does not listen to what it receives is told again and again that its client is gone."""
    received = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while True:
            await receive()
            received += 1

    async with serving(handler) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(GET)
        await eventually(lambda: received)
        client.abort()
        await eventually(lambda: received > 1000)
        await still_serves(server)


async def test_early_hints_wait_for_a_slow_client() -> None:
    """They are content like any other as far as memory goes."""
    sent = 0
    hint = {**HINT, "links": [b"</" + b"a" * 4000 + b">"]}

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        while True:
            await send(hint)
            sent += 4000

    async with serving(handler) as server:
        with socket.create_connection(("127.0.0.1", server.addresses[0].port)) as client:
            client.setblocking(False)
            client.sendall(GET)
            before = -1
            while before != sent:  # it has come to a stop
                before = sent
                for _ in range(20):
                    await still_serves(server)
        assert 0 < sent < 64_000_000


# -- Tasks


async def test_tasks_that_are_left_behind_come_to_an_end() -> None:
    """Whoever still receives, or waits for a slow client, when the application has failed, is told that it is over."""
    ends: list[Any] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())

        async def listen() -> None:
            ends.append((await receive())["type"])

        async def pour() -> None:
            try:
                while True:
                    await send(body(bytes(1_000_000), more=True))
            except ClientDisconnected:
                ends.append("cut")

        tasks = asyncio.create_task(listen()), asyncio.create_task(pour())
        await asyncio.sleep(0.05)
        try:
            raise LookupError("the main one")
        finally:
            background.update(tasks)

    background: set[asyncio.Task[None]] = set()
    async with serving(handler) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(GET)
        await eventually(lambda: len(ends) == 2)
        assert sorted(ends) == ["cut", "http.disconnect"]
        client.abort()


async def test_two_that_receive_get_every_piece_and_the_end_once() -> None:
    """As frameworks do that listen for the client beside reading its content."""
    got: list[dict[str, Any]] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] == "http.request":
                got.append(message)
                await asyncio.sleep(0)  # the others look before this one receives again

        listeners = [asyncio.create_task(listen()) for _ in range(3)]
        await eventually(lambda: got and not got[-1]["more_body"])
        await send(start())
        await send(body(b"done"))
        await asyncio.gather(*listeners)

    async with client_of(handler) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        for _ in range(5):
            await client.send(b"ab")
        assert (await client.response())[2] == b"done"
    assert b"".join(message["body"] for message in got) == b"ab" * 5
    assert [message["more_body"] for message in got].count(False) == 1


# -- files


@pytest.mark.parametrize("what", ["directory", "fifo", "/dev/null", "missing", "nul"])
async def test_only_files_are_sent_by_their_path(what: str, tmp_path: Path) -> None:
    """Everything else is an error of the application's, which it may catch to answer otherwise."""
    path = what if what.startswith("/") else str(tmp_path / what)
    if what == "directory":
        (tmp_path / what).mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "nul":
        path += "\0"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        with pytest.raises((OSError, ValueError)):
            await send({"type": "http.response.pathsend", "path": path})
        await send(body(b"otherwise"))

    async with client_of(handler) as client:
        assert (await client.get("/"))[2] == b"otherwise"
