"""What the tests of faulty clients share: a server with short timeouts on sockets of three kinds, clients that do a
fault many times over, one that behaves beside them, and the account of what is left afterwards.

Each fault is done 240 times. ``FOREBAY_SOAK_ROUNDS=20000 .venv/bin/pytest -s tests/http/test_faults.py`` does it that
often, which takes some minutes for each; ``-s`` shows what was measured.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import random
import select
import socket
import ssl
import sys
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from forebay import App
from forebay.engine.settings import Outbound
from forebay.http import HTTPServer, Request, Response, ServerTimeouts
from forebay.http.files import FileResponse
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.wire.request_head import Fields
from tests.engine.connecting import client_context, server_tls
from tests.http.websockets_kit import request
from tests.support import RawClient, eventually, open_descriptors

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "240"))
AT_ONCE = min(200, ROUNDS // 4)

HEAD, IDLE, BODY, WRITE, LINGER, HANDSHAKE = 0.5, 0.8, 0.6, 0.6, 0.2, 0.9
TIMEOUTS = ServerTimeouts(head=HEAD, idle=IDLE, body=BODY, body_rate=240, write=WRITE, linger=LINGER)
PING, PONG = 0.3, 0.3

LATE = 0.4
"""Seconds that a timeout may be late: its timer is by 200 ms, and may have to be set once more."""
BUSY = 1.5
"""Seconds more, for a machine that has other things to do."""
EARLY = 0.05
"""Seconds of one iteration of a loop that serves all these clients: within it, the timers' clock stands still."""

BESIDE_P99 = 0.5
"""Seconds within which the client that behaves has its answers. It shares a loop with the server and all clients of the
fault, so this is how long they keep each other waiting; ``test_slowhttptest`` measures the server alone."""

GROWTH = (4 if ROUNDS >= 6000 else 16) * 1024 * 1024
"""Bytes the process may grow by after the first third of the rounds: for 20,000 that is 314 a round, less than one
forgotten connection takes. In few rounds the allocator does not settle; objects are counted in any case."""

TLS_CLIENT = 3072
"""Bytes more for each TLS client, which are the loop's own: uvloop keeps about 2 KB of one that its server has closed,
and the buffers of the standard loop's, 256 KiB each, take thousands of rounds to settle."""

LARGE = b"x" * (1 << 19)
PIECE = b"p" * 16384
SHORT = 20  # pieces of the stream that ends
ALL = ("tcp", "tls", "unix")
PLAIN = ("tcp", "unix")


class Site:
    """An application of every kind of handler; ``running`` counts those that wait, or stream."""

    def __init__(self, folder: Path) -> None:
        self.running = 0
        self.folder = folder
        (folder / "large.bin").write_bytes(LARGE)
        self.app = app = App("site")
        app.get("/hello")(self.hello)
        app.get("/later")(self.later)
        app.get("/wait")(self.wait)
        app.get("/short")(self.short)
        app.get("/endless")(self.endless)
        app.get("/large")(self.large)
        app.get("/file")(self.file)
        app.post("/upload")(self.upload)
        app.post("/whole")(self.whole)
        app.post("/early")(self.early)
        app.post("/echo")(self.echo)
        outbound = Outbound(timeout=WRITE)
        settings = WebSocketSettings(ping_interval=PING, ping_timeout=PONG, compression=None, outbound=outbound)
        app.websocket("/ws", settings)(self.websocket)

    def hello(self) -> str:
        return "hello"

    async def later(self) -> str:
        await asyncio.sleep(0.02)
        return "later"

    async def wait(self) -> str:
        with self._running():
            await asyncio.Event().wait()
        return "never"

    async def short(self) -> AsyncIterator[bytes]:
        with self._running():
            for _ in range(SHORT):
                yield PIECE
                await asyncio.sleep(0.001)

    async def endless(self, request: Request) -> AsyncIterator[bytes]:
        keep_little(request)
        with self._running():
            while True:
                yield PIECE

    def large(self, request: Request) -> bytes:
        keep_little(request)
        return LARGE

    def file(self, request: Request) -> FileResponse:
        keep_little(request)
        return FileResponse(self.folder / "large.bin")

    async def upload(self, request: Request) -> str:
        size = 0
        with self._running():
            async for piece in request.stream():
                size += len(piece)
        return str(size)

    def whole(self, body: bytes) -> str:
        return str(len(body))

    def early(self) -> str:
        return "early"

    async def echo(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            with self._running():
                async for piece in request.stream():
                    yield piece

        return Response(pieces())

    async def websocket(self, ws: WebSocket) -> None:
        shrink(ws.conn.transport.get_extra_info("socket"))
        with self._running():
            async for message in ws:
                await ws.send(message)

    def _running(self) -> _Running:
        return _Running(self)


class _Running:
    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self) -> None:
        self.site.running += 1

    def __exit__(self, *exc: object) -> None:
        self.site.running -= 1


def shrink(sock: Any) -> None:
    """Let the kernel keep little for the peer, so that a slow one is noticed before megabytes are on their way."""
    if sock is not None:
        with suppress(OSError):  # the peer is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)


def keep_little(request: Request) -> None:
    """The same, for the client of a request."""
    shrink(request.exchange.conn.transport.get_extra_info("socket"))


class Client(RawClient):
    """One that knows when it began to connect."""

    began = 0.0


Play = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """What a client does wrong, and what is to become of its connection.

    ``closed`` is the reason, or several where that is a race; ``refused`` the one of a request that is refused.
    """

    play: Play
    closed: str | tuple[str, ...]
    refused: str = ""
    over: Sequence[str] = ALL
    deaf: bool = False

    @property
    def name(self) -> str:
        return getattr(self.play, "__name__", "fault").replace("_", " ")


@dataclass
class Stage:
    """The server under test, and where it is reached."""

    site: Site
    server: HTTPServer
    beside: list[float] = field(default_factory=list)

    @property
    def closed(self) -> Counter[str]:
        return Counter(self.server.statistics()["connections"]["closed"])

    @asynccontextmanager
    async def client(self, transport: str, *, deaf: bool = False) -> AsyncIterator[Client]:
        """A client by ``transport``: ``tcp``, ``tls``, ``unix``, or ``bare``: TCP where TLS is spoken. It is cut at the
        end, when it is not gone by then."""
        began = time.monotonic()
        tcp, tls, unix = self.server.addresses
        sock = socket.socket(socket.AF_UNIX if transport == "unix" else socket.AF_INET)
        sock.setblocking(False)
        if deaf and transport != "unix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = tls if transport in ("tls", "bare") else tcp
        try:
            loop = asyncio.get_running_loop()
            where = unix.host if transport == "unix" else (address.host, address.port)
            await asyncio.wait_for(loop.sock_connect(sock, where), 10)
            options: dict[str, Any] = {"limit": 4096 if deaf else 1 << 20, "sock": sock}
            if transport == "tls":
                options |= {"ssl": _context(), "server_hostname": "localhost"}
            opened = asyncio.open_unix_connection if transport == "unix" else asyncio.open_connection
            client = Client(*await asyncio.wait_for(opened(**options), 20))
        except BaseException:
            sock.close()
            raise
        client.began = began
        try:
            if deaf:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            yield client
        finally:
            client.writer.transport.abort()
            with suppress(OSError, ssl.SSLError):
                await asyncio.wait_for(client.writer.wait_closed(), 5)


@cache
def _context() -> ssl.SSLContext:
    return client_context()


@asynccontextmanager
async def staged(folder: Path, timeouts: ServerTimeouts = TIMEOUTS) -> AsyncIterator[Stage]:
    """A server on sockets of three kinds, and its account when all is over: nothing is left of whoever was there."""
    site = Site(folder)
    bind = ["http://127.0.0.1:0", "https://127.0.0.1:0", f"unix://{folder}/http.sock"]
    tls = server_tls(handshake_timeout=HANDSHAKE, reload_interval=3600)
    server = HTTPServer(site.app, bind=bind, timeouts=timeouts, tls=tls)
    await server.start()
    stage = Stage(site, server)
    try:
        for transport in ALL:
            async with stage.client(transport) as client:
                for path in ("/hello", "/later", "/short", "/file", "/large"):
                    assert (await client.get(path))[0] == 200
                await client.send(request(path="/ws"))
                assert (await client.response())[0] == 101
        await eventually(lambda: not server.connections)
        await asyncio.sleep(0)
        gc.collect()
        tasks, descriptors, objects = len(asyncio.all_tasks()), open_descriptors(), count_objects()
        server._tcp._counts.closed.clear()
        yield stage
        await eventually(lambda: server.connections == server.in_flight == site.running == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        await eventually(lambda: open_descriptors() <= descriptors)
        await eventually(lambda: not server._tcp._doors.inside and not len(server._tcp.ticker))
        with suppress(AssertionError):
            await eventually(lambda: gc.collect() >= 0 and not count_objects() - objects)
        left = count_objects() - objects
        assert not left, f"nobody has forgotten {left}"
    finally:
        await server.stop()


def count_objects() -> Counter[str]:
    """How many objects of our own there are, by class, without the bounded number of heads that are remembered."""
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for one in gc.get_objects()
        if str((kind := type(one)).__module__).startswith("forebay.") and kind is not Fields
    )


def resident() -> int:
    """Bytes of this process in memory, without what waits for the collector of garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def behave(stage: Stage, over: asyncio.Event) -> None:
    """Ask for this and that until it is ``over``, note how long each answer takes, and fail where one is not right."""
    async with stage.client("tcp") as client:
        while not over.is_set():
            for request, wanted in (
                (b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", b"hello"),
                (b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n", b"later"),
                (b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"u" * 1000, b"1000"),
            ):
                begin = time.monotonic()
                await client.send(request)
                status, headers, body = await client.response(timeout=20)
                assert (status, body) == (200, wanted)
                assert "connection" not in headers
                stage.beside.append(time.monotonic() - begin)
            await asyncio.sleep(0.005)


async def in_rounds(stage: Stage, faults: Sequence[Fault], rounds: int = ROUNDS, at_once: int = AT_ONCE) -> None:
    """Do ``faults`` in turn over all their transports, ``rounds`` times in all, many at once, beside a client that
    behaves; and see that each ended as it should, and that memory does not grow."""
    cases = [(fault, transport) for fault in faults for transport in fault.over]
    over = asyncio.Event()
    behaving = asyncio.create_task(behave(stage, over))
    begin, before = time.monotonic(), 0
    third = (rounds // 3 + at_once - 1) // at_once * at_once
    done: list[tuple[Fault, str]] = []
    try:
        for start in range(0, rounds, at_once):
            batch = [cases[number % len(cases)] for number in range(start, min(start + at_once, rounds))]
            async with asyncio.TaskGroup() as group:
                for fault, transport in batch:
                    group.create_task(_one(stage, fault, transport))
            done += batch
            assert not behaving.done() or behaving.result() is None
            if start + at_once == third:
                before = resident()
        grown = resident() - before
    finally:
        over.set()
        await behaving
    p99 = sorted(stage.beside)[int(len(stage.beside) * 0.99)]
    print(
        f"\n{len(done)} rounds of {len(cases)} cases in {time.monotonic() - begin:.1f} s, "
        f"rss grew by {grown / 1024:.0f} KiB; beside: {len(stage.beside)} answers, "
        f"p99 {p99 * 1000:.0f} ms, max {max(stage.beside) * 1000:.0f} ms"
    )
    assert p99 < BESIDE_P99
    clients = sum(transport == "tls" for _, transport in done[third:])
    assert grown < GROWTH + clients * TLS_CLIENT
    await eventually(lambda: not stage.server.connections)
    _compare(stage, done)


async def _one(stage: Stage, fault: Fault, transport: str) -> None:
    try:
        async with stage.client(transport, deaf=fault.deaf) as client:
            await fault.play(client)
    except Exception as error:
        error.add_note(f"{fault.name} over {transport}; closed so far: {dict(stage.closed)}")
        raise


def _compare(stage: Stage, done: Sequence[tuple[Fault, str]]) -> None:
    """What the server has counted with what was done."""
    told = stage.closed
    told["peer"] -= 1  # who behaves
    told = +told
    races: set[str] = set()
    for fault, _ in done:
        if isinstance(fault.closed, str):
            told[fault.closed] -= 1
        else:
            races.update(fault.closed)
    least = {reason: count for reason, count in told.items() if count < 0 or (count and reason not in races)}
    assert not least, f"too many, or too few: {least} of {dict(stage.closed)}"
    assert sum(told.values()) == sum(not isinstance(fault.closed, str) for fault, _ in done)
    assert stage.server.refused_by == Counter(fault.refused for fault, _ in done if fault.refused)


# -- what faults are made of


@asynccontextmanager
async def cut_after(seconds: float, since: float | None = None) -> AsyncIterator[None]:
    """What happens inside takes that long, or has ``since``: nobody is cut before the time, or much later."""
    begin = time.monotonic() if since is None else since
    yield
    check_cut(seconds, begin)


def check_cut(seconds: float, begin: float, last: float | None = None) -> None:
    """It was cut just now: not before that long after ``begin``, nor much later than that long after ``last``, which is
    when the last of it happened; None: at its beginning."""
    now = time.monotonic()
    took, late = now - begin, now - (begin if last is None else last) - seconds
    assert took >= seconds - EARLY, f"cut after {took:.3f} s, {seconds - took:.3f} s before the time"
    assert late <= LATE + BUSY, f"cut after {took:.3f} s, {late:.3f} s late"


def reset(client: RawClient) -> None:
    """Break off, if the server has not closed before. UNIX sockets know no resets: unread bytes make it one there."""
    if not client.writer.is_closing() and client.writer.get_extra_info("socket") is not None:
        client.abort()


async def rest(client: RawClient) -> bytes:
    """Everything up to the end of the connection, whatever that is."""
    with suppress(ssl.SSLError):
        return await client.rest(10)
    return b""


async def gone(client: RawClient) -> float:
    """Return when the connection is reset, or closed, without reading what the server has sent: when the last of that
    has come, which takes a while where many are served at once."""
    sock = client.writer.get_extra_info("socket")
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # poll(2): POLLERR and POLLHUP are always told
    last, waiting = time.monotonic(), 0
    async with asyncio.timeout(20):
        while not poll.poll(0):
            found = int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
            if found > waiting:
                last, waiting = time.monotonic(), found
            await asyncio.sleep(0.02)
    return last


@asynccontextmanager
async def dribbling(client: RawClient, data: bytes) -> AsyncIterator[None]:
    """Send ``data`` every 50 ms meanwhile."""

    async def on() -> None:
        with suppress(ConnectionError, RuntimeError):
            while not client.writer.is_closing():
                client.writer.write(data)
                await asyncio.sleep(0.05)

    task = asyncio.create_task(on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def timed_out(client: RawClient) -> None:
    """The rest is one 408, and the end."""
    said = await rest(client)
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), said[:200]
    assert b"\r\nconnection: close\r\n" in said
    assert said.count(b"HTTP/1.1 ") == 1


def a_moment() -> float:
    """Seconds, now none, now some milliseconds: long enough for anything to have happened on the other side."""
    return random.choice((0.0, 0.0, random.random() * 0.02))
