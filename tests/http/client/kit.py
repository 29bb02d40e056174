"""What the tests of the client share: raw servers that say what a test wants said, and the account of what is left."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from forebay.engine import ClientTLS
from forebay.http.client.client import Client
from tests.engine.connecting import tls_files
from tests.support import RawClient, eventually, open_descriptors

SOAK = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "0"))
"""Rounds of everything that is done many times over; 0: as many as a run of all tests has time for."""

LATE = 0.1
"""Seconds that a timeout may be late."""


def rounds(usual: int) -> int:
    """How often something is to be done."""
    return SOAK or usual


@cache
def server_context() -> ssl.SSLContext:
    """The standard library's server, with a certificate for ``localhost`` and 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls_files()[0].files)
    return context


def trusting() -> ClientTLS:
    """Settings of a client that trusts :func:`server_context`."""
    return ClientTLS(ca=tls_files()[1])


# -- servers that say anything


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Peer(RawClient):
    """A server's end of one connection."""

    async def asked(self) -> Asked | None:
        """The next request, with its content; None: the client is gone."""
        try:
            line = await self.reader.readline()
        except ConnectionError:
            return None
        if not line.endswith(b"\n"):
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        return Asked(method, target, headers, body)

    async def say(self, data: bytes) -> None:
        """Send ``data``; return when there is room for more.

        :raises ConnectionError: the client is gone.
        """
        self.writer.write(data)
        await self.writer.drain()

    async def say_for_ever(self, data: bytes) -> None:
        """Send ``data`` again and again until the client is gone."""
        while True:
            await self.say(data)
            await asyncio.sleep(0)  # the loop is the client's as well

    async def answer(self, body: bytes = b"ok", status: int = 200, headers: str = "") -> None:
        """Send an answer as a good server would."""
        await self.say(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)


Play = Callable[[Peer], Awaitable[None]]
"""What a server does with one connection, which is closed when it returns."""


@dataclass
class RawServer:
    """A server on 127.0.0.1 that plays with each connection. ``connections`` counts them."""

    play: Play
    secure: bool = False
    port: int = 0
    connections: int = 0
    open: int = 0
    requests: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http{'s' * self.secure}://127.0.0.1:{self.port}"


@asynccontextmanager
async def playing(play: Play, *, secure: bool = False) -> AsyncIterator[RawServer]:
    """Serve like that; all connections are cut at the end."""
    made = RawServer(play, secure)
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        made.open += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.play(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client is gone, as it may
        except asyncio.CancelledError:
            pass  # by the end of the server: asyncio's streams would log it
        finally:
            made.open -= 1
            tasks.discard(task)
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await asyncio.wait_for(writer.wait_closed(), 2)

    context = server_context() if secure else None
    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=5)


def answering(data: bytes, *, end: bool = False) -> Play:
    """Answer every request with these bytes; ``end``: and close."""

    async def play(peer: Peer) -> None:
        while await peer.asked() is not None:
            await peer.say(data)
            if end:
                return

    return play


# -- what is left


def pool_of(client: Client) -> dict[str, Any]:
    """The numbers of the client's pool."""
    numbers: dict[str, Any] = client.statistics()["pool"]
    return numbers


def busy(client: Client) -> int:
    """Connections that somebody has or that are being dialled, and requests that wait for one."""
    numbers = pool_of(client)
    return int(numbers["total"] - numbers["idle"] + numbers["waiting"])


async def at_rest(client: Client) -> None:
    """Fail unless nobody has a connection of the client, or waits for one, very soon."""
    try:
        await eventually(lambda: busy(client) == 0, 2.0)
    except AssertionError:
        raise AssertionError(f"the pool is not whole: {pool_of(client)}") from None


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """What happens inside leaves no descriptor and no task behind."""
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0):
        pass  # uvloop keeps a descriptor from its first socket on
    await asyncio.sleep(0)
    descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
    yield
    for patience in (0.5, 3.0):
        with suppress(AssertionError):
            await eventually(lambda: open_descriptors() <= descriptors and len(asyncio.all_tasks()) <= tasks, patience)
            return
        gc.collect()
    assert open_descriptors() <= descriptors, f"{open_descriptors() - descriptors} descriptors are left"
    raise AssertionError(f"tasks are left: {asyncio.all_tasks()}")


def _peak() -> int:
    """The most bytes this process had in memory since :func:`_forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/status has no VmHWM")


@contextmanager
def in_memory(most: int) -> Any:
    """What happens inside takes at most so many bytes more, at any moment, the buffers of C libraries included."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before = _peak()
    yield
    grown = _peak() - before
    assert grown <= most, f"memory grew by {grown / 1048576:.1f} MiB, {most / 1048576:.1f} MiB are allowed"


@contextmanager
def in_time(most: float) -> Any:
    """What happens inside takes at most so many seconds."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= most, f"took {took:.3f} s, {most:g} s are allowed"
