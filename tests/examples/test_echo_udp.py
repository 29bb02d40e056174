"""The echo over UDP: sessions, what is counted of each, and their end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from examples import echo_udp
from forebay import UDPServer
from forebay.engine import DatagramSession, dial_datagram
from forebay.errors import DeadlineExceeded
from tests.examples.processes import forebay_run
from tests.support import eventually, free_port, running

Call = Callable[[], Awaitable[DatagramSession]]


@pytest.fixture
async def server() -> AsyncIterator[UDPServer]:
    """An echo of its own, on a free port, with sessions that expire soon."""
    async with running(echo_udp.make_server("udp://127.0.0.1:0", session_timeout=0.3)) as fresh:
        yield fresh


@pytest.fixture
async def call(server: UDPServer) -> AsyncIterator[Call]:
    """Makes peers of it."""
    async with AsyncExitStack() as stack:

        async def dialled() -> DatagramSession:
            peer = await dial_datagram(server.addresses[0])
            stack.callback(peer.close)
            return peer

        yield dialled


async def ask(peer: DatagramSession, data: bytes) -> bytes:
    """Send a datagram, and receive the next one."""
    peer.write(data)
    return await peer.receive(timeout=5)


@pytest.mark.both_loops
async def test_datagrams_come_back_counted_for_each_peer(call: Call, server: UDPServer) -> None:
    """Each peer is counted for itself; empty datagrams are echoed as well."""
    ada, alan = await call(), await call()
    assert [await ask(ada, b"a"), await ask(alan, b"b"), await ask(ada, b"\0\xff")] == [b"1 a", b"1 b", b"2 \0\xff"]
    assert await ask(alan, b"") == b"2 "
    assert server.statistics()["opened"] == 2


@pytest.mark.both_loops
async def test_silent_peers_are_forgotten(call: Call, server: UDPServer) -> None:
    """A session that is over was logged with its counts, if it was one; its peer is counted from 1 afterwards."""
    talker, once = await call(), await call()
    with capture_logs() as logs:
        for _ in range(3):
            await ask(talker, b"hello")
        await ask(once, b"hello")
        await eventually(lambda: server.sessions == 0)
    over = [entry for entry in logs if entry["event"] == "session over"]
    assert [(one["peer"], one["reason"], one["datagrams"], one["bytes"]) for one in over] == [
        (talker.local, "expired", 3, 15)
    ]
    assert server.statistics()["closed"] == {"expired": 2}
    assert await ask(talker, b"hello") == b"1 hello"


async def test_what_is_too_long_is_dropped(call: Call, server: UDPServer) -> None:
    """A datagram past the maximum is counted, and not answered; the longest that is allowed is."""
    peer = await call()
    peer.write(b"x" * (echo_udp.LONGEST + 1))
    with pytest.raises(DeadlineExceeded):
        await peer.receive(timeout=0.1)
    assert server.statistics()["dropped"] == {"length": 1}
    assert await ask(peer, b"x" * echo_udp.LONGEST) == b"1 " + b"x" * echo_udp.LONGEST


async def test_one_address_has_so_many_sessions(call: Call, server: UDPServer) -> None:
    """Past the bound for an address, datagrams of new ports are dropped, and counted."""
    peers = [await call() for _ in range(echo_udp.MOST_OF_ONE_ADDRESS + 1)]
    for peer in peers:
        peer.write(b"hello")
    await eventually(lambda: server.statistics()["dropped"].get("per-peer"))
    assert server.statistics()["opened"] == echo_udp.MOST_OF_ONE_ADDRESS


async def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    """``forebay run`` serves it; SIGTERM ends its sessions, which is logged, and it exits with 0."""
    url = f"udp://127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    async with forebay_run("examples.echo_udp:server", log, "--bind", url):
        peer = await dial_datagram(url)
        assert [await ask(peer, b"a"), await ask(peer, b"b")] == [b"1 a", b"2 b"]
        peer.close()
    assert '"reason":"drain"' in log.read_text().replace(": ", ":")
