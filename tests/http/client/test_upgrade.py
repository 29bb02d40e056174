"""HTTP/1.1 Upgrade: the connection that comes of it, and the answers that are none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay.errors import ConnectionClosed, ForebayError, UpstreamClosed, UpstreamProtocolError, UpstreamStatus
from forebay.http.client import Client
from forebay.http.client.settings import Timeouts
from forebay.http.client.upgrade import upgrade
from tests.http.client.kit import Peer, at_rest, nothing_left, playing, trusting
from tests.support import eventually

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines/2\r\n\r\n"


@pytest.mark.both_loops
@pytest.mark.parametrize("secure", [False, True])
async def test_both_sides_speak_another_protocol(secure: bool) -> None:
    """Sent and received as it is, first what came behind the head; the connection is none of the pool any more."""
    heads: list[Any] = []

    async def play(peer: Peer) -> None:
        asked = await peer.asked()
        assert asked is not None
        heads.append(asked)
        if "upgrade" not in asked.headers:
            await peer.answer()
            return
        await peer.say(SWITCHING + b"welcome\nsecond ")
        await peer.say(b"line\n")
        while line := await peer.line():
            await peer.say(b"you said " + line)
        await peer.say(b"bye\n")

    async with (
        playing(play, secure=secure) as server,
        Client(server.url, tls=trusting() if secure else None) as client,
        nothing_left(),
    ):
        conn = await upgrade(client, "/talk", "lines/2", headers={"x-own": "1"})
        assert (conn.tls is not None) is secure
        data = b""
        while data != b"welcome\nsecond line\n":
            data += await conn.receive(5)
        for text in (b"a\n", b"x" * 100_000 + b"\n"):
            await conn.send(text)
            data = b""
            while not data.endswith(b"\n"):
                data += await conn.receive(5)
            assert data == b"you said " + text
        await at_rest(client)
        assert (await (await client.get("/")).read()) == b"ok"
        assert not conn.closing
        conn.close()
        await eventually(lambda: server.open == 0)
    first = heads[0]
    assert (first.method, first.target) == ("GET", "/talk")
    assert (first.headers["upgrade"], first.headers["connection"].lower()) == ("lines/2", "upgrade")
    assert first.headers["x-own"] == "1"


async def test_no_timeout_of_the_client_is_left() -> None:
    """Neither ``read`` nor ``total``: the connection is silent for as long as it likes."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING)
        await asyncio.sleep(0.6)
        await peer.say(b"at last")
        await peer.rest()

    async with playing(play) as server, Client(server.url, timeouts=Timeouts(read=0.2, total=0.3)) as client:
        conn = await upgrade(client, "/", "lines/2")
        assert await conn.receive(5) == b"at last"
        conn.close()


async def test_stopping_the_client_leaves_the_connection() -> None:
    """It is the caller's."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING)
        while line := await peer.line():
            await peer.say(line)

    async with playing(play) as server:
        async with Client(server.url) as client:
            conn = await upgrade(client, "/", "lines/2")
        await conn.send(b"still here\n")
        assert await conn.receive(5) == b"still here\n"
        conn.close()


async def test_the_end_of_the_server() -> None:
    """What came before it is received; then it is closed."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING + b"last ")
        await asyncio.sleep(0.05)
        await peer.say(b"words")

    async with playing(play) as server, nothing_left(), Client(server.url) as client:
        conn = await upgrade(client, "/", "lines/2")
        assert b"".join([piece async for piece in conn]) == b"last words"
        with pytest.raises(ConnectionClosed):
            await conn.send(b"x")


async def test_a_flood_behind_the_head_is_held_back() -> None:
    """It waits in the network until somebody receives; all of it comes."""
    size = 4 * 1024 * 1024

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING + bytes(size))

    async with playing(play) as server, Client(server.url) as client:
        conn = await upgrade(client, "/", "lines/2", inbound_limit=1)
        await asyncio.sleep(0.2)
        assert conn.buffer_size() < size // 2
        received = 0
        async for piece in conn:
            received += len(piece)
        assert received == size


@pytest.mark.parametrize("secure", [False, True])
async def test_a_flood_before_the_connection_is_taken(secure: bool) -> None:
    """A middleware that takes its time keeps nobody from anything."""
    size = 1024 * 1024

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING + bytes(size))

    async def slow(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        await asyncio.sleep(0.1)
        return response

    async with (
        playing(play, secure=secure) as server,
        Client(server.url, middleware=[slow], tls=trusting() if secure else None) as client,
    ):
        conn = await upgrade(client, "/", "lines/2")
        assert sum([len(piece) async for piece in conn]) == size


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 426 X\r\ncontent-length: 3\r\n\r\nyes", UpstreamStatus, "no upgrade to lines/2, but 426 X"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n", UpstreamStatus, "but 200 OK"),
        (SWITCHING.replace(b"lines/2", b"other"), UpstreamProtocolError, "upgrades to 'other', not to lines/2"),
        (SWITCHING.replace(b"Upgrade: lines/2\r\n", b""), UpstreamProtocolError, "upgrades to ''"),
        (b"", UpstreamClosed, "closed the connection"),
    ],
)
async def test_answers_that_are_no_upgrade(answer: bytes, error: type[ForebayError], text: str) -> None:
    """The error says so, and has the answer; nothing is left open."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(answer[:-6])
        await asyncio.sleep(0.02)  # content may come later than the head
        await peer.say(answer[-6:])

    async with playing(play) as server, nothing_left(), Client(server.url) as client:
        with pytest.raises(error, match=text) as caught:
            await upgrade(client, "/", "lines/2")
        if isinstance(caught.value, UpstreamStatus):
            assert caught.value.answered == caught.value.response.status
            assert await caught.value.response.read() == b"yes"
        await at_rest(client)
        await eventually(lambda: server.open == 0)


async def test_a_server_that_leaves_behind_its_101() -> None:
    """An error, whether we hear of it before the connection is taken or after."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(SWITCHING)
        peer.abort()

    async def slow(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        await asyncio.sleep(0.1)
        return response

    async with playing(play) as server, nothing_left():
        async with Client(server.url, middleware=[slow]) as client:
            with pytest.raises((UpstreamClosed, ConnectionClosed)):
                await (await upgrade(client, "/", "lines/2")).receive(5)
            await at_rest(client)
        async with Client(server.url) as client:
            with pytest.raises((UpstreamClosed, ConnectionClosed)):
                await (await upgrade(client, "/", "lines/2")).receive(5)


@pytest.mark.parametrize(
    ("protocol", "options", "text"),
    [
        ("", {}, "must be a name"),
        ("a b", {}, "must be a name"),
        ("a\r\nx: y", {}, "must be a name"),
        ("a/b/c", {}, "must be a name"),
        ("a", {"headers": {"Upgrade": "b"}}, "'Upgrade' belongs to the upgrade"),
        ("a", {"inbound_limit": 0}, "inbound_limit 0"),
    ],
)
async def test_what_cannot_be_asked_for(protocol: str, options: dict[str, Any], text: str) -> None:
    """It is refused before anything is sent."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=text):
            await upgrade(client, "/", protocol, **options)


async def test_cancelling_at_any_moment_leaves_nothing() -> None:
    """Before there is an answer, and after."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await asyncio.sleep(0.003)
        await peer.say(SWITCHING)
        await peer.rest()

    async with playing(play) as server, nothing_left(), Client(server.url) as client:

        async def use() -> None:
            conn = await upgrade(client, "/", "lines/2")
            try:
                await conn.receive()
            finally:
                conn.close()

        for round_ in range(30):
            task = asyncio.create_task(use())
            await asyncio.sleep(round_ * 0.0005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await at_rest(client)
        await eventually(lambda: server.open == 0)
