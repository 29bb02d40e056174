"""What the gateway's tests share: targets that behave and targets that do not, and a gateway before them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from forebay.config import schema
from forebay.gateway import Gateway
from forebay.http import Exchange, HTTPServer, Receiver
from tests.support import running

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Seen(msgspec.Struct):
    """A request as a target got it."""

    line: str
    headers: dict[str, str]
    body: bytes = b""


class FakeTarget:
    """A raw TCP server that runs ``script(fake)`` for each connection, and resets what is left open at the end."""

    def __init__(self, script: Callable[[FakeConnection], Awaitable[None]]) -> None:
        self.script = script
        self.connections = 0
        self.seen: list[Seen] = []
        self.errors: list[BaseException] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        connection = FakeConnection(self, self.connections, reader, writer)
        try:
            await self.script(connection)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway closed it, which some scripts wait for
        finally:
            writer.close()
            self.tasks.discard(task)


class FakeConnection:
    """A connection from the gateway, as a script sees it."""

    def __init__(
        self, target: FakeTarget, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.target = target
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> Seen:
        """The next request."""
        seen = await self.head()
        if "content-length" in seen.headers:
            seen.body = await self.reader.readexactly(int(seen.headers["content-length"]))
        elif seen.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                seen.body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        return seen

    async def head(self) -> Seen:
        """The head of the next request."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(": ") for line in head[1:-2])
        seen = Seen(head[0], {})
        for name, _, value in fields:
            assert name.lower() not in seen.headers, f"{name} twice"
            seen.headers[name.lower()] = value
        self.target.seen.append(seen)
        return seen

    async def send(self, data: bytes) -> None:
        """Send exactly ``data``."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Break the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()

    async def until_closed(self) -> None:
        """Return when the gateway has closed or reset the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


@asynccontextmanager
async def fake_target(script: Callable[[FakeConnection], Awaitable[None]], port: int = 0) -> AsyncIterator[FakeTarget]:
    """A running :class:`FakeTarget`."""
    target = FakeTarget(script)
    server = await asyncio.start_server(target.serve, "127.0.0.1", port, limit=1 << 20)
    target.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield target
    finally:
        server.close()
        tasks = list(target.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def says_hello(fake: FakeConnection) -> None:
    """Answers every request, and keeps the connection."""
    while True:
        await fake.request()
        await fake.send(HELLO)


async def never_answers(fake: FakeConnection) -> None:
    """Reads, and says nothing."""
    await fake.head()
    await fake.until_closed()


class Backend(Receiver):
    """A well-behaved application: says who it is and what it got."""

    body_limit: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0

    def on_request(self, exchange: Exchange) -> None:
        """Answer at once, or as soon as the body is there."""
        self.requests += 1
        Echo(self, exchange)


class Echo(Receiver):
    """One answer of a :class:`Backend`."""

    def __init__(self, backend: Backend, exchange: Exchange) -> None:
        self.backend = backend
        self.exchange = exchange
        self.body = bytearray()
        exchange.attach(self)

    def on_body(self, data: bytes) -> None:
        """Collect."""
        self.body += data

    def on_body_end(self) -> None:
        """Answer."""
        exchange = self.exchange
        headers = [(name.decode(), value.decode()) for name, value in exchange.headers]
        told = {"by": self.backend.name, "method": exchange.method, "target": exchange.target.decode()}
        document = msgspec.json.encode({**told, "headers": headers, "body": self.body.decode("latin-1")})
        exchange.respond(200, b"content-type: application/json\r\n", document)


@asynccontextmanager
async def backend(name: str = "one", port: int = 0) -> AsyncIterator[tuple[Backend, str]]:
    """A running backend and its URL."""
    application = Backend(name)
    async with running(HTTPServer(application, bind=f"http://127.0.0.1:{port}")) as server:
        yield application, str(server.addresses[0])


def config_of(*urls: str | schema.Target, **options: Any) -> schema.SystemConfig:
    """A configuration with one route ``r`` for everything to one upstream ``u`` of ``urls``.

    Options are fields of the route, of the upstream and of the gateway, by their names.
    """

    def fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
        return {name: options.pop(name) for name in struct.__struct_fields__ if name in options}

    targets = [schema.Target(url=url) if isinstance(url, str) else url for url in urls]
    upstream = schema.Upstream(targets=targets, **fields(schema.Upstream))
    gateway = schema.GatewayConfig(**{"bind": ["http://127.0.0.1:0"], **fields(schema.GatewayConfig)})
    route = schema.Route(**{"name": "r", "upstream": "u", **fields(schema.Route)})
    assert not options, options
    return schema.SystemConfig(gateway=gateway, upstreams={"u": upstream}, routes=[route])


@asynccontextmanager
async def gateway_to(*urls: str | schema.Target, **options: Any) -> AsyncIterator[Gateway]:
    """A running gateway, see :func:`config_of`."""
    async with running(Gateway(config_of(*urls, **options))) as gateway:
        yield gateway


def port_of(gateway: Gateway) -> int:
    """Where it listens."""
    return gateway.addresses[0].port


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have ``labels``."""
    wanted = set(labels.items())
    samples = [sample for family in gateway.collect() if family.name == name for sample in family.samples]
    return sum(sample.value for sample in samples if wanted <= set(sample.labels))
