"""One exchange after the other on a connection: what ends it, and what becomes of the connection then."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import Connection, ConnectionHandler, Outbound, dial
from forebay.errors import ConnectionClosed, ReadTimeout, UpstreamClosed, WriteTimeout
from forebay.http import Client, Limits, Timeouts
from forebay.http.client.content import Content
from forebay.http.client.endpoint import Endpoint
from forebay.http.client.transport import HTTPTransport
from tests.http.client.kit import Peer, at_rest, in_time, nothing_left, playing, pool_of, trusting
from tests.support import eventually, open_descriptors

pytestmark = pytest.mark.both_loops

MEBIBYTE = 1024 * 1024


def deafen(peer: Peer) -> None:
    """Take nothing more, and have the kernel take little."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # loops' transports have it


async def connect(endpoint: Endpoint, link: ConnectionHandler) -> Connection:
    """Have the kernel take little of what is sent."""
    conn = await dial(endpoint.address, link, outbound=Outbound(limit=None, timeout=None))
    conn.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    return conn


# The server ends it early


async def test_a_new_connection_that_is_closed_at_once() -> None:
    """Nothing was sent, so it is safe to try again; it does not wait for an answer that cannot come."""

    async def gone(peer: Peer) -> None:
        """Close."""

    async with nothing_left(), playing(gone) as server, Client(server.url, proxy="") as client:
        with in_time(2.0):
            for _ in range(20):
                with pytest.raises(UpstreamClosed):
                    await client.post("/", content=b"x")
        await at_rest(client)


async def test_an_answer_before_the_request_is_taken() -> None:
    """It is complete, though the server takes no more of the request, ever: the connection is not left to wait."""

    async def deaf(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        deafen(peer)
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(60)

    async with nothing_left(), playing(deaf) as server, Client(server.url, proxy="") as client:
        before = open_descriptors()
        assert (await client.put("/", content=bytes(16 * MEBIBYTE))).status == 413
        await eventually(lambda: open_descriptors() <= before + 1)  # the server's


# What is written


@pytest.mark.alone
async def test_a_server_that_takes_some_and_then_nothing() -> None:
    """``write`` counts from when it took something last, and not from when somebody happened to look."""

    async def tires(peer: Peer) -> None:
        deafen(peer)
        await asyncio.sleep(0.05)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # loops' transports have it
        await peer.reader.readexactly(40_000)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        await asyncio.sleep(60)

    options: Any = {"timeouts": Timeouts(write=0.6, read=20), "transport": HTTPTransport(connect=connect)}
    async with nothing_left(), playing(tires) as server, Client(server.url, **options) as client:
        with in_time(1.05), pytest.raises(WriteTimeout, match=r"took nothing .* 0\.6 s"):
            await client.put("/", content=bytes(MEBIBYTE))
        await at_rest(client)


@pytest.mark.alone
async def test_a_server_that_takes_all_but_the_last() -> None:
    """That is a matter of ``write``, though all of it was handed to the system."""

    async def deaf(peer: Peer) -> None:
        deafen(peer)
        await asyncio.sleep(60)

    async with nothing_left(), playing(deaf) as server:
        transport = HTTPTransport(connect=connect)
        async with Client(server.url, timeouts=Timeouts(write=0.2, read=20), transport=transport) as client:
            for size in range(300_000, 540_000, 60_000):
                with in_time(1.0), pytest.raises(WriteTimeout):
                    await client.put("/", content=bytes(size))
            await at_rest(client)


async def test_a_server_that_takes_the_last_slowly() -> None:
    """Neither ``write`` nor ``read`` is over while it takes something now and then."""

    async def slow(peer: Peer) -> None:
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        head = await peer.reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while left > 0:
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # loops' transports have it
            left -= len(await peer.reader.read(left))
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
            await asyncio.sleep(0.05)
        await peer.answer(b"all")

    async with nothing_left(), playing(slow) as server:
        transport = HTTPTransport(connect=connect)
        async with Client(server.url, timeouts=Timeouts(write=0.3, read=0.3), transport=transport) as client:
            response = await client.put("/", content=bytes(500_000))
            assert await response.read() == b"all"


async def test_content_that_is_cancelled() -> None:
    """By what it waits for: the request ends, and does not wait for the rest of its content for ever."""

    async def takes(peer: Peer) -> None:
        await peer.reader.read(-1)

    async def content() -> AsyncIterator[bytes]:
        yield b"some"
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        never.cancel()
        yield await never

    async with nothing_left(), playing(takes) as server, Client(server.url, proxy="") as client:
        async with asyncio.timeout(2):
            with pytest.raises(ConnectionClosed, match="content to send was cancelled"):
                await client.post("/", content=content())
        await at_rest(client)


# Continue


@pytest.mark.parametrize("order", ["late", "unasked", "never", "instead", "417"])
async def test_go_ahead_in_every_order(order: str) -> None:
    """100 behind the content, without being asked for it, not at all, an answer in its place, and 417."""
    asked: list[bytes] = []

    async def odd(peer: Peer) -> None:
        while head := await peer.reader.readuntil(b"\r\n\r\n"):
            asked.append(head.lower())
            if order == "instead":
                await peer.answer(b"done")
                return
            if order == "417" and b"expect:" in head.lower():
                await peer.answer(status=417)
                continue
            if order == "unasked":
                await peer.say(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            body = await peer.reader.readexactly(5)
            if order == "late":
                await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
            await peer.answer(b"done" if body == b"hello" else b"wrong")

    async with nothing_left(), playing(odd) as server, Client(server.url, proxy="") as client:
        for _ in range(1 if order in ("late", "never") else 2):
            async with asyncio.timeout(5):
                response = await client.put("/", content=b"hello", expect_continue=order != "unasked")
            assert (response.status, await response.read()) == (200, b"done")
        assert [b"expect: 100-continue" in head for head in asked] == {
            "417": [True, False, True, False],
            "unasked": [False, False],
            "instead": [True, True],
        }.get(order, [True])
        assert pool_of(client)["dials"] == (2 if order == "instead" else 3 if order == "417" else 1)
        await at_rest(client)


# How content ends


@pytest.mark.parametrize(
    ("answer", "content", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nContent-Encoding: gzip\r\n\r\n", b"", True),
        (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 5\r\n\r\n", b"ok", True),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_each_way_in_which_content_ends(answer: bytes, content: bytes, kept: bool, cut: bool) -> None:
    """And whether the connection is used again then; in one piece, and byte by byte."""

    async def says(peer: Peer) -> None:
        while await peer.asked() is not None:
            for one in (answer[at : at + 1] for at in range(len(answer))) if cut else (answer,):
                await peer.say(one)
                await asyncio.sleep(0)
            if not kept:
                return

    async with nothing_left(), playing(says) as server, Client(server.url, proxy="") as client:
        for number in range(1, 4):
            response = await client.get("/")
            assert await response.read() == content
            if b"X-Sum" in answer:
                assert response.trailers["x-sum"] == "5"
            await at_rest(client)
            assert pool_of(client)["dials"] == (1 if kept else number)


async def test_we_say_that_we_close() -> None:
    """Then the connection is not used again, whatever the server thinks (RFC 9112 section 9.6)."""

    async def keeps(peer: Peer) -> None:
        while await peer.asked() is not None:
            await peer.answer()

    async with nothing_left(), playing(keeps) as server, Client(server.url, proxy="") as client:
        for number in (1, 2):
            await client.get("/", headers={"connection": "Close"})
            assert pool_of(client)["dials"] == number


@pytest.mark.parametrize("how", ["read", "stream", "left"])
async def test_paused_and_used_again(how: str) -> None:
    """A connection that was paused for content that nobody took goes on where that is taken, and for who is next."""
    large = bytes(range(256)) * 8192

    async def much(peer: Peer) -> None:
        while (asked := await peer.asked()) is not None:
            await peer.answer(large if asked.target == "/large" else large[:60_000])

    limits = Limits(buffer=16384, connections=1, per_target=1)
    async with nothing_left(), playing(much) as server, Client(server.url, limits=limits, proxy="") as client:
        for _ in range(5):
            response = await client.get("/" if how == "left" else "/large")
            for _ in range(10):
                await asyncio.sleep(0)  # the buffer is full by now
            if how == "read":
                assert await response.read() == large
            elif how == "stream":
                assert b"".join([piece async for piece in response.stream()]) == large
            else:
                response.discard()
        await at_rest(client)
        assert pool_of(client)["dials"] == 1


# Who leaves


async def test_closed_while_somebody_reads() -> None:
    """Who reads is told, and takes what came for no whole."""

    async def begins(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        await asyncio.sleep(60)

    async with nothing_left(), playing(begins) as server, Client(server.url, proxy="") as client:
        response = await client.get("/")
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0.01)
        response.discard()
        async with asyncio.timeout(2):
            with pytest.raises(ConnectionClosed, match=r"closed while its content was awaited; made at .*test_conn"):
                await reading
        await at_rest(client)


@pytest.mark.parametrize("when", ["before", "head", "content", "upload"])
@pytest.mark.parametrize("secure", [False, True])
async def test_the_client_stops_in_the_middle(when: str, secure: bool) -> None:
    """Who waits is told that it did, at once, and nothing is left; the server is not to blame."""

    async def hangs(peer: Peer) -> None:
        if when == "upload":
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # loops' transports have it
        if when == "content":
            await peer.asked()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await asyncio.sleep(60)

    async def ask(client: Client) -> None:
        content = bytes(32 * MEBIBYTE) if when == "upload" else None
        response = await client.put("/", content=content)
        await response.read()

    async with nothing_left(), playing(hangs, secure=secure) as server:
        client = Client(server.url, proxy="", tls=trusting() if secure else None, timeouts=Timeouts(write=20))
        await client.start()
        asking = asyncio.ensure_future(ask(client))
        if when != "before":
            await eventually(lambda: pool_of(client)["in_use"] == 1)
            await asyncio.sleep(0.05)
        with in_time(2.0):
            async with asyncio.timeout(2):
                await client.stop()
                with pytest.raises((ConnectionClosed, RuntimeError, Exception)) as caught:
                    await asking
        if when != "before":
            assert isinstance(caught.value, ConnectionClosed), caught.value
            assert "the client was stopped" in str(caught.value)


# The connection changes hands


async def test_an_upgrade_that_nobody_takes() -> None:
    """Its connection comes back to the pool: when it is dropped, when the server ends it, and in time."""
    ends = asyncio.Event()

    async def switches(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        if ends.is_set():
            return
        await asyncio.sleep(60)

    limits = Limits(connections=2, per_target=2, unread=0.2)
    fields = {"upgrade": "x", "connection": "upgrade"}
    async with nothing_left(), playing(switches) as server, Client(server.url, limits=limits, proxy="") as client:
        with capture_logs() as logs:
            assert (await client.get("/", headers=fields)).status == 101
            await at_rest(client)
            kept = await client.get("/", headers=fields)
            await at_rest(client)
            assert [log["event"] for log in logs] == ["response forgotten", "response not read"]
            assert all("test_connection.py" in log["at"] for log in logs)
            with pytest.raises(RuntimeError, match="not upgraded, or was taken already"):
                kept.take_connection()
            ends.set()
            kept = await client.get("/", headers=fields)
            await at_rest(client)
            assert await kept.read() == b""
            with suppress(RuntimeError):
                kept.take_connection()
        assert pool_of(client)["total"] == 0


# The loop stands still


@asynccontextmanager
async def in_a_thread(say: Callable[[socket.socket], None]) -> AsyncIterator[str]:
    """A server that goes on while the loop stands still: it answers each connection with ``say``, once it was asked
    something, and closes it. Its URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # the end
            while True:
                accepted, _ = listening.accept()
                with accepted, suppress(OSError):  # the client is gone
                    accepted.recv(1000)
                    say(accepted)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        await asyncio.to_thread(thread.join, 5)


@pytest.mark.alone
@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"])
async def test_an_answer_that_came_while_the_loop_stood_still(begin: bytes) -> None:
    """Was in time, though nobody could look: its first byte, and the next one."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def say(sock: socket.socket) -> None:
        sock.sendall(begin)
        time.sleep(0.2)
        sock.sendall(whole[len(begin) :])
        sock.recv(1)

    def stand_still() -> None:
        ours.recv(1)
        time.sleep(0.5)

    loop = asyncio.get_running_loop()
    ours, others = socket.socketpair()
    async with in_a_thread(say) as url:
        loop.add_reader(ours, stand_still)  # sockets are where loops do most of their work
        async with Client(url, timeouts=Timeouts(read=0.3), proxy="") as client:
            for _ in range(3):
                loop.call_later(0.1, others.send, b"x")
                assert await (await client.get("/")).read() == b"ok"
        loop.remove_reader(ours)
    ours.close()
    others.close()


async def test_a_refusal_behind_which_the_connection_broke() -> None:
    """A server that refuses an upload and closes has the system reset the connection, since it left some unread. What
    it said is heard, though we found that out by writing."""

    def say(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(65_536)
            time.sleep(0.003)  # the loop stands still, and reads nothing

    async with in_a_thread(say) as url, Client(url, proxy="") as client:
        for _ in range(10):
            response = await client.post("/", content=pieces())
            assert (response.status, await response.text()) == (413, "too much")
        await at_rest(client)


class Lying(Content):
    """Content of a program, which is not as long as it says."""

    def __init__(self, gives: int) -> None:
        super().__init__(None, length=10)
        self.gives = gives

    async def _pieces(self) -> AsyncIterator[bytes]:  # type: ignore[override]  # a generator is one
        for _ in range(self.gives):
            yield b"GET /x"


@pytest.mark.parametrize("gives", [1, 2, 1000])
async def test_content_that_is_not_as_long_as_it_says(gives: int) -> None:
    """What is too much would be taken for another request."""
    heard = b""

    async def listens(peer: Peer) -> None:
        nonlocal heard
        heard += await peer.reader.read(-1)

    async with nothing_left(), playing(listens) as server, Client(server.url, proxy="") as client:
        with pytest.raises(ValueError, match=r"it gives more|it ended after"):
            await client.post("/", content=Lying(gives))
        await at_rest(client)
    assert heard.count(b"GET /x") <= 1


@pytest.mark.parametrize("held", [False, True])
async def test_content_that_is_held(held: bool) -> None:
    """Is not forgotten, however long nobody asks for it."""

    async def says(peer: Peer) -> None:
        await peer.asked()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsome")
        await asyncio.sleep(0.3)
        await peer.say(b"more")
        await asyncio.sleep(60)

    options: Any = {"limits": Limits(unread=0.1), "timeouts": Timeouts(read=0.5), "proxy": ""}
    async with nothing_left(), playing(says) as server, Client(server.url, **options) as client:
        response = await client.get("/")
        if held:
            response.hold()
        await asyncio.sleep(0.2)  # longer than anything may be forgotten
        if held:
            assert await response.read() == b"somemore"
        else:
            with pytest.raises(ConnectionClosed, match="nobody took its content"):
                await response.read()


async def test_what_is_secret_in_a_url_is_not_in_errors() -> None:
    """Nor in what requests and responses are as text."""

    async def silent(peer: Peer) -> None:
        if (asked := await peer.asked()) is not None and "ok" in asked.target:
            await peer.answer()
        await asyncio.sleep(60)

    timeouts = Timeouts(read=0.05)
    async with nothing_left(), playing(silent) as server, Client(server.url, timeouts=timeouts, proxy="") as client:
        response = await client.get("/ok?token=s3cret")
        with pytest.raises(ReadTimeout) as caught:
            await client.get("/x?token=s3cret")
        for text in (str(caught.value), repr(response), repr(response.request), str(response.request)):
            assert "s3cret" not in text
            assert "token=" in text
