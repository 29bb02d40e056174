"""Clients that go away, or only half; handlers that are cancelled; deadlines; connections that change protocol."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay import App
from forebay.engine.connection import CloseReason, Connection, ConnectionHandler
from forebay.engine.settings import Outbound
from forebay.http import Exchange, HTTPServer, Receiver, Request, ServerLimits, ServerTimeouts
from forebay.http import cancelled as cancelled_handlers
from tests.engine.connecting import client_context, server_tls
from tests.support import RawClient, eventually, raw_client, running

GET = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


class Waiting:
    """An app whose handlers wait, and tell when they began and how they ended."""

    def __init__(self) -> None:
        self.app = App("waiting")
        self.began = asyncio.Event()
        self.ended: dict[str, float] = {}
        self.release = asyncio.Event()
        self.app.get("/wait")(self.wait)
        self.app.get("/stream")(self.stream)
        self.app.get("/fixed")(self.fixed)
        self.app.get("/stubborn")(self.stubborn)
        self.app.post("/upload")(self.upload)

    async def _hold(self) -> None:
        self.began.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended["cancelled"] = time.monotonic()
            raise
        self.ended["answered"] = time.monotonic()

    async def wait(self) -> str:
        await self._hold()
        return "late"

    async def stream(self) -> AsyncIterator[bytes]:
        yield b"first"
        await self._hold()
        yield b"0123456789"

    async def fixed(self) -> Any:
        from forebay.http import Response

        return Response(self.stream(), headers={"content-length": "15"})

    async def stubborn(self) -> str:
        self.began.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.ended["cancelled"] = time.monotonic()
        return "done"

    async def upload(self, request: Request) -> str:
        self.began.set()
        return str(len(await request.body()))


@asynccontextmanager
async def serving(application: Any, **options: Any) -> AsyncIterator[tuple[HTTPServer, int]]:
    """A server with ``application``, on a free port."""
    server = HTTPServer(application, bind="http://127.0.0.1:0", **options)
    await server.start()
    try:
        yield server, server.addresses[0].port
    finally:
        await server.stop()


async def final(client: RawClient) -> tuple[int, dict[str, str], bytes]:
    """The answer that counts, after interim ones."""
    while (answer := await client.response())[0] < 200:
        pass
    return answer


def vanish(client: RawClient, how: str) -> None:
    """Go away: by an orderly close, or a reset."""
    if how == "reset":
        client.abort()
    else:
        client.writer.transport.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("path", ["wait", "stream"])
async def test_a_client_that_goes_away_cancels_its_handler_within_100_ms(how: str, path: str) -> None:
    """Before the answer and in the middle of a stream, with nothing else going on."""
    site = Waiting()
    async with serving(site.app) as (server, port):
        client = await RawClient.connect(port)
        await client.send(GET.replace(b"wait", path.encode()))
        await site.began.wait()
        if path == "stream":
            assert await client.line() == b"HTTP/1.1 200 OK\r\n"
        at = time.monotonic()
        vanish(client, how)
        await eventually(lambda: "cancelled" in site.ended)
        assert site.ended["cancelled"] - at < 0.1
        await eventually(lambda: server.connections == 0)
        assert server.disconnects == 1
        assert server.in_flight == 0


@pytest.mark.parametrize("path", ["wait", "stream", "fixed"])
async def test_a_client_that_only_half_closes_is_answered(path: str) -> None:
    """RFC 9112 section 9.6. The pipelined request behind it as well; then the server closes."""
    site = Waiting()
    async with serving(site.app) as (server, port), raw_client(port) as client:
        await client.send(GET.replace(b"wait", path.encode()) * 2)
        client.send_eof()
        await site.began.wait()
        await asyncio.sleep(0.3)  # several looks at whether it is still there
        site.release.set()
        for _ in range(2):
            status, _, body = await final(client)
            assert (status, body) == (200, b"late" if path == "wait" else b"first0123456789")
        assert await client.rest() == b""
        assert site.ended.keys() == {"answered"}
        assert server.disconnects == 0


@pytest.mark.parametrize("scheme", ["https", "unix"])
@pytest.mark.parametrize("path", ["wait", "stream"])
async def test_the_same_over_tls_and_unix_sockets(scheme: str, path: str, tmp_path: Path) -> None:
    """A client that goes away is missed at once; over a UNIX socket one that half-closes is answered."""
    site = Waiting()
    bind = f"unix://{tmp_path}/app" if scheme == "unix" else "https://127.0.0.1:0"

    async def connect(server: HTTPServer) -> RawClient:
        if scheme == "unix":
            return RawClient(*await asyncio.open_unix_connection(f"{tmp_path}/app"))
        port = server.addresses[0].port
        return RawClient(*await asyncio.open_connection("127.0.0.1", port, ssl=client_context()))

    server = HTTPServer(site.app, bind=bind, tls=server_tls() if scheme == "https" else None)
    async with running(server):
        for _ in range(2):
            site.began.clear()
            site.ended.clear()
            client = await connect(server)
            await client.send(GET.replace(b"wait", path.encode()))
            await site.began.wait()
            at = time.monotonic()
            client.writer.transport.close()
            await eventually(lambda: "cancelled" in site.ended)
            assert site.ended["cancelled"] - at < 0.1
        if scheme == "unix":
            client = await connect(server)
            site.began.clear()
            await client.send(GET.replace(b"wait", path.encode()))
            await site.began.wait()
            client.send_eof()
            await asyncio.sleep(0.3)  # several looks at whether it is still there
            site.release.set()
            assert (await final(client))[0] == 200
            await client.close()


async def test_a_client_of_http_1_0_that_closes_its_side_has_gone() -> None:
    """It cannot be asked, and proxies that speak HTTP/1.0 never half-close."""
    site = Waiting()
    async with serving(site.app) as (_, port), raw_client(port) as client:
        await client.send(b"GET /wait HTTP/1.0\r\n\r\n")
        await site.began.wait()
        at = time.monotonic()
        client.send_eof()
        await eventually(lambda: "cancelled" in site.ended)
        assert site.ended["cancelled"] - at < 0.1


async def test_a_client_that_goes_away_in_mid_upload_is_noticed() -> None:
    """Its content will never be complete."""
    site = Waiting()
    async with serving(site.app) as (server, port):
        client = await RawClient.connect(port)
        await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        await site.began.wait()
        await client.close()
        await eventually(lambda: server.connections == 0 and server.in_flight == 0)
        assert server.disconnects == 1


async def test_a_handler_that_ignores_its_cancellation_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the place it waits at; and shutting down does not wait for it for ever."""
    monkeypatch.setattr(cancelled_handlers, "PATIENCE", 0.2)
    monkeypatch.setattr(cancelled_handlers, "LAST_PATIENCE", 0.2)
    site = Waiting()
    async with serving(site.app) as (_, port):
        client = await RawClient.connect(port)
        await client.send(GET.replace(b"wait", b"stubborn"))
        await site.began.wait()
        client.abort()
        await eventually(lambda: site.app.cancelled.ignored == 1)
    shown = capsys.readouterr().out
    assert "handler ignores its cancellation" in shown
    assert "/stubborn" in shown
    assert "test_disconnects.py:" in shown
    assert "handler given up" in shown
    site.release.set()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_content_is_asked_for_only_when_the_handler_wants_it() -> None:
    """RFC 9110 section 10.1.1: a handler that answers without reading sends no 100."""
    app = App("site")
    asked = asyncio.Event()

    @app.post("/refuse")
    async def refuse(request: Request) -> tuple[str, int]:
        await asyncio.sleep(0)
        return "no", 403

    @app.post("/take")
    async def take(request: Request) -> str:
        asked.set()
        return (await request.body()).decode()

    head = b" HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with serving(app) as (_, port):
        async with raw_client(port) as client:
            await client.send(b"POST /refuse" + head)
            status, headers, _ = await client.response()
            assert (status, headers["connection"]) == (403, "close")
        async with raw_client(port) as client:
            await client.send(b"POST /take" + head)
            assert (await client.response())[0] == 100
            assert asked.is_set()
            await client.send(b"abc")
            assert (await client.response())[2] == b"abc"


async def test_a_client_that_is_not_read_from_is_missed_when_it_resets() -> None:
    """Its content waits for a handler that does not read it, so nothing is read that would tell."""
    site = Waiting()

    @site.app.post("/ignore")
    async def ignore(request: Request) -> str:
        return await site.wait()

    async with serving(site.app) as (server, port):
        client = await RawClient.connect(port)
        await client.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 200_000)
        await site.began.wait()
        client.abort()
        await eventually(lambda: "cancelled" in site.ended)
        await eventually(lambda: server.connections == 0)


async def test_hints_leave_before_the_answer_and_trailers_come_behind_the_content() -> None:
    """RFC 8297; RFC 9110 section 6.5."""
    app = App("site")
    go = asyncio.Event()

    @app.post("/")
    async def root(request: Request) -> dict[str, str]:
        request.early_hints("</style.css>; rel=preload", "</x.js>; rel=preload")
        await go.wait()
        body = await request.text()
        return {"body": body, "checksum": request.trailers["checksum"]}

    async with serving(app) as (_, port), raw_client(port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        hints = b"".join([await client.line() for _ in range(4)])
        assert hints == (
            b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nlink: </x.js>; rel=preload\r\n\r\n"
        )
        go.set()
        await client.send(b"2\r\nab\r\n0\r\nChecksum: 12\r\n\r\n")
        assert (await client.response())[2] == b'{"body":"ab","checksum":"12"}'


class Holding(Receiver):
    """Answers nothing by itself."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_deadline(self) -> None:
        self.told.append("deadline")

    def on_disconnect(self, reason: CloseReason) -> None:
        self.told.append(reason)


class Deadlines:
    """Sets a deadline for each answer, and begins some of them."""

    name = "deadlines"
    body_limit = None

    def __init__(self) -> None:
        self.receiver = Holding()

    def on_request(self, exchange: Exchange) -> None:
        exchange.attach(self.receiver)
        if exchange.path == "/begun":
            exchange.start(200, b"", None)
            exchange.write(b"some")
        elif exchange.path == "/quick":
            exchange.expire_in(0.2)
            exchange.respond(200, b"", b"in time")
            return
        exchange.expire_in(0.2)


async def test_an_answer_that_is_late_is_504_or_cut() -> None:
    """By the deadline the application sets; the connection goes on after a 504."""
    site = Deadlines()
    async with serving(site) as (server, port), raw_client(port) as client:
        assert (await client.get("/quick"))[2] == b"in time"
        at = time.monotonic()
        assert (await client.get("/late"))[0] == 504
        assert 0.2 <= time.monotonic() - at < 1.0
        assert site.receiver.told == ["deadline", CloseReason.TIMEOUT]
        assert (await client.get("/quick"))[2] == b"in time"
        await client.send(b"GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")
        data = await client.rest()
        assert b"some" in data
        assert not data.endswith(b"0\r\n\r\n")
        assert server.deadlines == 2


async def test_the_servers_own_deadline_cancels_the_handler() -> None:
    """``ServerTimeouts.request``."""
    site = Waiting()
    async with serving(site.app, timeouts=ServerTimeouts(request=0.2)) as (_, port), raw_client(port) as client:
        assert (await client.get("/wait"))[0] == 504
        await eventually(lambda: "cancelled" in site.ended)


async def test_the_last_request_of_a_connection_is_answered_with_close() -> None:
    """``ServerLimits.requests``; what was pipelined behind it is not read."""
    app = App("site")
    seen: list[str] = []

    @app.get("/{name}")
    def get(name: str) -> str:
        seen.append(name)
        return name

    async with serving(app, limits=ServerLimits(requests=3)) as (_, port), raw_client(port) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)))
        answers = [await client.response() for _ in range(3)]
        assert [headers.get("connection") for _, headers, _ in answers] == [None, None, "close"]
        assert await client.rest() == b""
        assert seen == ["0", "1", "2"]


class Shouting(ConnectionHandler):
    """The protocol behind the upgrade."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_open(self, conn: Connection) -> None:
        self.events.append("open")

    def on_message(self, conn: Connection, data: bytes) -> None:
        self.events.append(data)
        conn.write(data.upper())

    def on_eof(self, conn: Connection) -> bool:
        self.events.append("eof")
        return False

    def on_drain(self, conn: Connection) -> None:
        conn.write(b"BYE")
        conn.close(CloseReason.DRAIN)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.events.append(reason)


class Upgrading:
    """Takes up upgrades to ``shout``, and no others."""

    name = "upgrading"
    body_limit = None

    def __init__(self) -> None:
        self.handler = Shouting()
        self.outbound: Outbound | None = None
        self.later = False
        self.held: list[Exchange] | None = None  # they are not answered

    def on_request(self, exchange: Exchange) -> None:
        if exchange.upgrade_to != b"shout":
            exchange.respond(200, b"", exchange.raw_path)
        elif self.held is not None:
            self.held.append(exchange)
        elif self.later:
            asyncio.get_running_loop().call_later(0.05, self._upgrade, exchange)
        else:
            self._upgrade(exchange)

    def _upgrade(self, exchange: Exchange) -> None:
        conn = exchange.upgrade(b"connection: upgrade\r\nupgrade: shout\r\n", self.handler, outbound=self.outbound)
        assert conn is exchange.conn


SHOUT = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Shout\r\n\r\n"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("ahead", [b"", b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_connection_is_handed_to_another_protocol(later: bool, ahead: bytes) -> None:
    """Behind the answers to what came before; with what came behind the request (RFC 9110 section 7.8)."""
    site = Upgrading()
    site.later = later
    site.outbound = Outbound(high=1000)
    async with serving(site, timeouts=ServerTimeouts(head=0.3, idle=0.3)) as (server, port), raw_client(port) as client:
        await client.send(ahead + SHOUT + b"GET / HTTP/1.1\r\n\r\n")
        if ahead:
            assert (await client.response())[2] == b"/first"
        status, headers, _ = await client.response()
        assert (status, headers["upgrade"]) == (101, "shout")
        assert await client.exactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        await asyncio.sleep(0.7)  # past what the server waits for HTTP
        await client.send(b"more")
        assert await client.exactly(4) == b"MORE"
        assert site.handler.events[:2] == ["open", b"GET / HTTP/1.1\r\n\r\n"]
        assert server.statistics()["upgrades"] == 1
        assert server.requests["GET"][101] == 1
        draining = asyncio.create_task(server.drain())
        assert await client.rest() == b"BYE"
        await draining
        assert site.handler.events[-1] == CloseReason.DRAIN


async def test_an_upgrade_that_nobody_takes_up_changes_nothing() -> None:
    """The request is answered, and what follows it is HTTP."""
    site = Upgrading()
    async with serving(site) as (server, port), raw_client(port) as client:
        await client.send(SHOUT.replace(b"Shout", b"h2c") + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n" + SHOUT + b"abc")
        assert (await client.response())[2] == b"/up"
        assert (await client.response())[2] == b"/next"
        assert (await client.response())[0] == 101
        assert await client.exactly(3) == b"ABC"
        assert server.upgrades == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        SHOUT.replace(b"keep-alive, Upgrade", b"keep-alive"),
        SHOUT.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
        SHOUT.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SHOUT.replace(b"keep-alive, Upgrade", b"close, upgrade"),
        SHOUT.replace(b"GET", b"HEAD"),
    ],
)
async def test_what_cannot_be_upgraded_is_an_ordinary_request(request_bytes: bytes) -> None:
    """Without ``Connection: upgrade``, with content, of HTTP/1.0, with another method."""
    site = Upgrading()
    async with serving(site) as (server, port), raw_client(port) as client:
        await client.send(request_bytes)
        assert (await client.response(head_only=request_bytes.startswith(b"HEAD")))[0] == 200
        assert server.upgrades == 0


async def test_a_peer_that_floods_a_pending_upgrade_is_not_kept_in_memory() -> None:
    """What comes behind the request waits with the client once it is more than 64 KiB."""
    site = Upgrading()
    site.held = []
    async with serving(site) as (server, port):
        client = await RawClient.connect(port)
        client.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await client.send(SHOUT)
        await eventually(lambda: site.held)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                for _ in range(2000):
                    client.writer.write(b"x" * 65536)
                    await client.writer.drain()
        (conn,) = server._tcp._connections
        assert conn.bytes_in < 1_000_000
        client.abort()
