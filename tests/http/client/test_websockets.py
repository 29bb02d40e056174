"""ReconnectingWebSocket: messages over lost connections, what ends it, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay.engine.reconnecting import ClientState
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectTimeout,
    DeadlineExceeded,
    ForebayError,
    Overloaded,
    TLSFailed,
    UpstreamProtocolError,
    UpstreamStatus,
)
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.client import Client
from forebay.http.client.request import ClientRequest
from forebay.http.client.response import ClientResponse
from forebay.http.client.websockets import ReconnectingWebSocket, open_websocket
from forebay.http.middleware import BasicAuth
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.policy.backoff import Backoff
from forebay.testing import FaultProxy, VirtualClock
from tests.http.client.kit import Peer, at_rest, nothing_left, playing, trusting
from tests.http.websockets_kit import Site, serving
from tests.support import eventually, free_port

FAST = Backoff(initial=0.01, factor=1.0, cap=0.01, jitter="none")
QUICK = WebSocketSettings(close_timeout=0.3)

Handler = Callable[[WebSocket], Awaitable[None]]


async def echo(ws: WebSocket) -> None:
    """Send everything back."""
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def client_of(handler: Any, **options: Any) -> AsyncIterator[tuple[Client, Site]]:
    """A client of a server whose requests all become WebSockets, which has served before."""
    async with serving(handler) as (_, site, port):
        async with connect(f"ws://127.0.0.1:{port}/warm"):
            pass
        async with nothing_left(), Client(f"http://127.0.0.1:{port}", **options) as client:
            yield client, site
            await at_rest(client)


def over(client: Client, **options: Any) -> ReconnectingWebSocket:
    """A WebSocket that comes back soon."""
    return ReconnectingWebSocket.over(client, "/feed", backoff=FAST, settings=QUICK, **options)


async def received(ws: ReconnectingWebSocket, count: int) -> list[Any]:
    """The next messages."""
    return [await ws.receive(5) for _ in range(count)]


# -- messages


@pytest.mark.both_loops
async def test_messages_go_on_over_connections() -> None:
    """What came before a connection ended comes first; the iteration goes on with the next."""
    number = 0

    async def three(ws: WebSocket) -> None:
        nonlocal number
        for _ in range(3):
            number += 1
            await ws.send(str(number))
        await ws.close(1012, "restart")

    async with client_of(three) as (client, _):
        first = number
        async with over(client) as ws:
            assert await received(ws, 12) == [str(first + i) for i in range(1, 13)]
            assert ws.reconnects >= 3
            assert (ws.close_code, ws.close_reason) == (1012, "restart")
        assert ws.state is ClientState.CLOSED


@pytest.mark.both_loops
async def test_both_directions() -> None:
    """Text and bytes, in order, while it is connected."""
    async with client_of(echo) as (client, _), over(client) as ws:
        messages: list[str | bytes] = ["a", b"\x00\xff", "ü" * 50_000, ""]
        for message in messages:
            await ws.send(message)
            assert await ws.receive(5) == message
        assert ws.ws is not None
        assert ws.ws.compressed
        assert ws.connects == 1


async def test_a_server_that_is_killed_and_comes_back() -> None:
    """``on_connect`` has its word first on each connection; what was being sent meanwhile waits, in order."""
    port = free_port()
    heard: list[list[Any]] = []

    async def note(ws: WebSocket) -> None:
        mine: list[Any] = []
        heard.append(mine)
        async for message in ws:
            mine.append(message)
            if message == "subscribe":
                await ws.send("subscribed")

    async def subscribe(ws: WebSocket) -> None:
        await ws.send("subscribe")
        assert await ws.receive(5) == "subscribed"

    async def send_all(ws: ReconnectingWebSocket, *messages: str) -> None:
        for message in messages:
            await ws.send(message)

    async with Client(f"http://127.0.0.1:{port}") as client, over(client, on_connect=subscribe) as ws:
        for round_ in range(3):
            sender = asyncio.create_task(send_all(ws, "a", "b", "c"))
            await eventually(lambda: ws.failures)
            site = Site(note, QUICK)
            server = HTTPServer(site, bind=f"http://127.0.0.1:{port}")
            await server.start()
            await asyncio.wait_for(sender, 5)
            await eventually(lambda: heard[-1:] == [["subscribe", "a", "b", "c"]])
            assert len(heard) == ws.connects == round_ + 1
            await server.stop()
            await eventually(lambda: not ws.connected)
            ws.failures = 0


async def test_a_connection_that_is_cut() -> None:
    """By a reset: it comes back; what waits to be received is not lost."""

    async def count(ws: WebSocket) -> None:
        for number in range(1_000_000):
            await ws.send(f"{number:06}")
            await asyncio.sleep(0)  # the loop is ours as well

    async with (
        serving(count) as (_, _site, port),
        FaultProxy(f"tcp://127.0.0.1:{port}") as proxy,
        Client(f"http://127.0.0.1:{proxy.address.port}") as client,
        over(client) as ws,
    ):
        proxy.down.reset_after_bytes = 5000
        beginnings = 0
        last = -1
        while beginnings < 5:
            number = int(await ws.receive(5))
            assert number in (0, last + 1)
            beginnings += number == 0
            last = number
        assert isinstance(ws.reason, ConnectionClosed | None)
        assert ws.close_code == 1006


async def test_a_black_hole_is_noticed_by_its_silence() -> None:
    """The pings of the settings find it out."""
    settings = WebSocketSettings(ping_interval=0.2, ping_timeout=0.2, close_timeout=0.2)
    async with (
        serving(echo) as (_, _site, port),
        FaultProxy(f"tcp://127.0.0.1:{port}") as proxy,
        Client(f"http://127.0.0.1:{proxy.address.port}") as client,
        ReconnectingWebSocket.over(client, "/", backoff=FAST, settings=settings) as ws,
    ):
        await ws.send("a")
        assert await ws.receive(5) == "a"
        proxy.black_hole = True
        await eventually(lambda: not ws.connected)
        assert (ws.close_code, ws.close_reason) == (1006, "heartbeat")
        await proxy.reset()
        proxy.black_hole = False
        await ws.send("b")
        assert await ws.receive(5) == "b"


async def test_a_slow_program_holds_the_server_back() -> None:
    """What waits is bounded; nothing is lost."""
    sent = 0

    async def flood(ws: WebSocket) -> None:
        nonlocal sent
        while sent < 3000:
            sent += 1
            await ws.send(f"{sent:05}" + "x" * 5000)
        await ws.close(1000)

    async with serving(flood) as (_, _site, port), Client(f"http://127.0.0.1:{port}") as client:
        options = WebSocketSettings(compression=None)
        async with ReconnectingWebSocket.over(client, "/", settings=options) as ws:
            last = -1
            while last != sent:  # until nothing moves
                last = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < 2900
            assert [int(message[:5]) async for message in ws] == list(range(1, 3001))


async def test_one_that_only_sends() -> None:
    """What comes is thrown away, and counted."""
    heard: list[Any] = []

    async def chatty(ws: WebSocket) -> None:
        async for message in ws:
            heard.append(message)
            for _ in range(100):
                await ws.send("blah")

    async with client_of(chatty) as (client, _), over(client, queue=0) as ws:
        for number in range(20):
            await ws.send(str(number))
        await eventually(lambda: ws.unread == 2000)
        assert heard == [str(number) for number in range(20)]
        with pytest.raises(RuntimeError, match="does not receive"):
            await ws.receive()


# -- sending without a connection


async def test_sending_waits_for_so_long_and_for_so_many() -> None:
    """Then it says why; what waits is bounded."""
    async with Client(f"http://127.0.0.1:{free_port()}") as client, over(client, senders=2, send_timeout=0.2) as ws:
        with pytest.raises(DeadlineExceeded, match=r"not connected within 0\.2 s: .*cannot connect"):
            await ws.send("a")
        waiting = [asyncio.create_task(ws.send("a", timeout=5)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 wait to send already"):
            await ws.send("b")
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        with pytest.raises(DeadlineExceeded):
            await ws.send("c", timeout=0.05)
        await ws.close()
        with pytest.raises(ConnectionClosed, match="is closed"):
            await waiting[1]
        with pytest.raises(ConnectionClosed, match="is closed"):
            await ws.send("d")


# -- what ends it


@pytest.mark.parametrize("code", [1000, 1008, 4000, 4321])
async def test_codes_that_end_it(code: int) -> None:
    """The iteration ends; sending and receiving say the code."""

    async def leave(ws: WebSocket) -> None:
        await ws.send("last words")
        await ws.close(code, "enough")

    async with client_of(leave) as (client, site), over(client) as ws:
        opened = len(site.sockets)
        assert [message async for message in ws] == ["last words"]
        assert (ws.close_code, ws.close_reason) == (code, "enough")
        assert len(site.sockets) == opened + 1
        with pytest.raises(ConnectionClosed, match=rf"is closed \({code}: enough\)"):
            await ws.receive()
        with pytest.raises(ConnectionClosed, match=rf"is closed \({code}: enough\)"):
            await ws.send("more")


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 3000])
async def test_codes_after_which_it_is_opened_again(code: int) -> None:
    """They are of the moment."""
    count = 0

    async def leave(ws: WebSocket) -> None:
        nonlocal count
        count += 1
        await ws.close(code if count < 4 else 1000)

    async with client_of(leave) as (client, _), over(client) as ws:
        assert [message async for message in ws] == []
        assert count == 4  # one of them to begin with


async def test_codes_are_for_the_program_to_choose() -> None:
    """Whatever has ``in``."""
    codes = iter([1000, 4001, 1008, 4999])

    async def leave(ws: WebSocket) -> None:
        await ws.close(next(codes, 1001))

    async with client_of(leave) as (client, _), over(client, final_codes=range(4900, 5000)) as ws:
        assert [message async for message in ws] == []
        assert ws.close_code == 4999
        assert ws.connects == 3


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", UpstreamStatus, "/feed opens no WebSocket.*403"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", UpstreamStatus, "opens no WebSocket, but answers 200"),
        (
            b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n",
            UpstreamProtocolError,
            "does not fit the key",
        ),
    ],
)
async def test_answers_that_open_none(answer: bytes, error: type[ForebayError], text: str) -> None:
    """It fails at once; the connection is not left open."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.say(answer)
        await peer.rest()

    async with playing(play) as server, nothing_left(), Client(server.url) as client, over(client) as ws:
        with pytest.raises(error, match=text):
            await ws.receive(5)
        with pytest.raises(ConnectionClosed, match="closed: "):
            await ws.send("a")
        await at_rest(client)
        assert len(server.requests) == 0
        assert server.connections == 1


def test_when_it_is_tried_again() -> None:
    """By the backoff and ``Retry-After``, as long as there are attempts."""

    class Busy:
        """A transport whose server has no time."""

        def __init__(self) -> None:
            self.asked: list[float] = []

        async def start(self) -> None:
            """See Transport."""

        drain = stop = start

        async def send(self, request: ClientRequest) -> ClientResponse:
            """See Transport."""
            self.asked.append(clock.now())
            if len(self.asked) == 2:
                return ClientResponse.made(request, 503, [("retry-after", "7")])
            raise ConnectFailed("nobody there")

    with VirtualClock() as clock:
        transport = Busy()

        async def main() -> None:
            backoff = Backoff(initial=1, jitter="none")
            async with (
                Client("http://x", transport=transport) as client,
                ReconnectingWebSocket.over(client, "/", backoff=backoff, attempts=4) as ws,
            ):
                with pytest.raises(ConnectFailed, match="nobody there"):
                    await anext(ws)

        clock.run(main())
    assert [round(at - transport.asked[0], 6) for at in transport.asked] == [0, 1, 10, 14]


# -- making it ready


async def test_on_connect_that_fails() -> None:
    """An exception, or too much time, is a connection that failed; a final code of the server's ends it."""
    count = 0

    async def hook(ws: WebSocket) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyError("mistake")
        if count == 2:
            await asyncio.sleep(60)
        await ws.send("log in")
        await ws.receive()

    async def refuse(ws: WebSocket) -> None:
        async for message in ws:
            if message == "log in":
                await ws.close(4003, "go away")

    reasons: list[Any] = []
    async with client_of(refuse) as (client, _):
        options: dict[str, Any] = {"setup_timeout": 0.2, "on_state": lambda state, reason: reasons.append(reason)}
        async with over(client, on_connect=hook, **options) as ws:
            assert [message async for message in ws] == []
            assert (ws.close_code, ws.close_reason) == (4003, "go away")
            assert ws.connects == 0
    told = list(dict.fromkeys(map(type, filter(None, reasons))))
    assert told == [ConnectFailed, ConnectTimeout]


# -- what is asked for


async def test_it_is_a_request_of_the_client() -> None:
    """With its headers, cookies and authentication, and with parameters of its own; the answer's headers are seen."""
    app: App[Any] = App(middleware=[BasicAuth(lambda user, password: (user, password) == ("ann", "secret"))])
    seen: list[dict[str, Any]] = []

    @app.websocket("/rooms/{name}")
    async def room(ws: WebSocket, name: str) -> None:
        seen.append({**ws.headers, "name": name, "query": ws.query})
        await echo(ws)

    @app.get("/login")
    async def login(request: Request) -> Response:
        return Response(b"", headers={"set-cookie": "session=7"})

    server = HTTPServer(app, bind="http://127.0.0.1:0")
    await server.start()
    try:
        url = f"http://127.0.0.1:{server.addresses[0].port}"
        async with Client(url, auth=("ann", "secret"), cookies=True, headers={"x-team": "blue"}) as client:
            await (await client.get("/login")).read()
            offers = ["v2", "v1"]
            async with ReconnectingWebSocket.over(
                client, "/rooms/a", params={"b": 1}, headers={"x-own": "1"}, subprotocols=offers
            ) as ws:
                await ws.send("hi")
                assert await ws.receive(5) == "hi"
            one = await open_websocket(client, url.replace("http", "ws") + "/rooms/b?c=2")
            await one.close()
        async with Client(url) as stranger:
            with pytest.raises(UpstreamStatus, match="401"):
                await open_websocket(stranger, "/rooms/a")
    finally:
        await server.stop()
    first, second = seen
    assert (first["name"], first["query"]) == ("a", [("b", "1")])
    assert (second["name"], second["query"]) == ("b", [("c", "2")])
    assert first["x-team"] == "blue"
    assert first["x-own"] == "1"
    assert first["cookie"] == second["cookie"] == "session=7"
    assert first["sec-websocket-protocol"] == "v2, v1"


async def test_over_tls() -> None:
    """By the client's TLS settings, which do not trust just anybody."""

    async def play(peer: Peer) -> None:
        await peer.asked()
        await peer.answer(status=503)

    async with playing(play, secure=True) as server:
        url = server.url.replace("https", "wss")
        async with Client(tls=trusting()) as client:
            with pytest.raises(UpstreamStatus, match="503"):
                await open_websocket(client, url)
        async with Client() as client, ReconnectingWebSocket.over(client, url) as ws:
            with pytest.raises(TLSFailed):
                await ws.receive(5)


async def test_without_a_client() -> None:
    """Whatever opens a WebSocket."""
    async with (
        serving(echo) as (_, _site, port),
        ReconnectingWebSocket(lambda: connect(f"ws://127.0.0.1:{port}"), name="echo", backoff=FAST) as ws,
    ):
        await ws.send("a")
        assert await ws.receive(5) == "a"
        assert ws.ws is not None
        ws.ws.conn.abort()
        await ws.send("b")
        assert await ws.receive(5) == "b"
        assert ws.reconnects == 1


# -- its life


async def test_closing() -> None:
    """It takes leave of the server with a code, and ends whoever waits; twice is once."""
    async with client_of(echo) as (client, site):
        async with over(client) as ws:
            await ws.wait_connected(5)
            receiving = asyncio.create_task(anext(ws, None))
            await asyncio.sleep(0)
            await ws.close(4100, "bye")
            assert await receiving is None
            await ws.close()
            await eventually(lambda: site.sockets[-1].close_code == 4100)
            assert site.sockets[-1].close_reason == "bye"
        with pytest.raises(ConnectionClosed):
            await ws.receive()


async def test_closing_that_is_given_up() -> None:
    """Closes all the same, also when nobody has taken what came, and the server does not answer."""

    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send("x" * 1000)

    async with client_of(flood) as (client, site):
        for turns in range(1, 6):
            async with asyncio.timeout(5):
                ws = await over(client, queue=2).__aenter__()
                await ws.wait_connected()
                closing = asyncio.create_task(ws.close())
                for _ in range(turns):
                    await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait([closing])
            assert ws.state is ClientState.CLOSED
            await at_rest(client)
        assert site.sockets


async def test_cancelling_at_any_moment_leaves_nothing() -> None:
    """While it is opened, made ready, and used."""

    async def hook(ws: WebSocket) -> None:
        await ws.send("hook")
        await ws.receive()

    async def talk(ws: WebSocket) -> None:
        async for message in ws:
            await asyncio.sleep(0.002)
            await ws.send(message)
            if message == "last":
                await ws.close(1012)

    async with client_of(talk) as (client, _):

        async def use() -> None:
            async with over(client, on_connect=hook) as ws:
                await ws.send("a")
                await ws.send("last")
                async for _ in ws:
                    pass

        for round_ in range(50):
            task = asyncio.create_task(use())
            await asyncio.sleep(round_ * 0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue": -1}, "queue -1: must be at least 0"),
        ({"senders": -1}, "senders -1"),
        ({"send_timeout": 0}, "send_timeout 0: must be above 0"),
        ({"setup_timeout": float("inf")}, "setup_timeout inf"),
        ({"good_life": -1}, "good_life -1"),
        ({"attempts": 0}, "attempts 0"),
    ],
)
def test_parameters_out_of_range(options: dict[str, Any], text: str) -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match=text):
        ReconnectingWebSocket(lambda: connect("ws://127.0.0.1:1"), **options)


async def test_a_mistake_of_the_program_is_raised() -> None:
    """Such as a header that belongs to the handshake: it is not tried again and again."""
    async with Client("http://127.0.0.1:1") as client, over(client, headers={"upgrade": "x"}) as ws:
        with pytest.raises(ValueError, match="belongs to the WebSocket handshake"):
            await ws.receive(5)
