"""Who is at the two ends of a connection, over every kind of address, with a proxy in between and without."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forebay.engine import TLS, Certificate, Connection, ProxyProtocol
from forebay.engine.ends import host_of
from forebay.wire.proxy_fields import ProxyTLS
from forebay.wire.proxy_header import ProxyHeader, encode_v1, encode_v2
from tests.engine.connecting import (
    ANY,
    ANY_TLS,
    Recorder,
    client_context,
    client_of,
    issue,
    port_of,
    server_tls,
    serving,
    tls_files,
)
from tests.support import RawClient, eventually, running

pytestmark = pytest.mark.both_loops

CLIENT, OURS = ("192.0.2.7", 1234), ("198.51.100.1", 443)


async def opened(recorder: Recorder) -> Connection:
    await eventually(lambda: recorder.conn)
    return recorder.opened


async def unix_client(path: str) -> RawClient:
    return RawClient(*await asyncio.wait_for(asyncio.open_unix_connection(path), 5))


def test_hosts() -> None:
    """An IPv4 address is one, however a socket of both families writes it."""
    assert host_of(("127.0.0.1", 1)) == "127.0.0.1"
    assert host_of(("::ffff:192.0.2.1", 1)) == "192.0.2.1"
    assert host_of(("::1", 1)) == "::1"
    assert host_of(("::ffff:1", 1)) == "::ffff:1"


@pytest.mark.parametrize("bind", [ANY, "tcp://[::1]:0", ANY_TLS])
async def test_over_tcp(bind: str) -> None:
    """Both ends are the client's, the other way around; nobody knows who it is."""
    recorder = Recorder()
    tls = bind == ANY_TLS
    options: dict[str, Any] = {"tls": server_tls()} if tls else {}
    async with running(serving(recorder, bind=bind, **options)) as server:
        host = server.addresses[0].host
        async with client_of(port_of(server), tls=tls, host=host) as client:
            conn = await opened(recorder)
            own = client.writer.get_extra_info("sockname")
            shown = f"[{host}]" if ":" in host else host
            assert conn.peer_host == own[0]
            assert conn.peer == f"{shown}:{own[1]}"
            assert conn.local == f"{shown}:{port_of(server)}"
            assert (conn.tls is not None) == tls
            assert (conn.identity, conn.credentials, conn.proxy_header) == (None, None, None)


async def test_dual_stack() -> None:
    """On a socket of both families an IPv4 client is one, at both ends; an IPv6 client too."""
    recorder = Recorder()
    async with running(serving(recorder, bind="tcp://*:0")) as server:
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
            recorder.conn = None
            recorder.reasons.clear()
            async with client_of(port_of(server), host=host) as client:
                conn = await opened(recorder)
                assert conn.peer_host == host
                assert conn.peer == f"{shown}:{client.writer.get_extra_info('sockname')[1]}"
                assert conn.local == f"{shown}:{port_of(server)}"
            await eventually(lambda: not server.connections)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """The kernel says who the peer is, and we are where it connected to."""
    path = str(tmp_path / "s")
    recorder = Recorder()
    async with running(serving(recorder, bind=f"unix://{path}")):
        client = await unix_client(path)
        conn = await opened(recorder)
        assert conn.peer_host == "unix"
        assert conn.peer == f"unix:{os.getpid()}"
        assert conn.local == path
        assert conn.credentials == (os.getpid(), os.getuid(), os.getgid())
        assert conn.identity is None
        await client.close()


async def test_over_an_abstract_unix_socket() -> None:
    """Its name is shown as it is written in an address."""
    name = f"forebay-test-{os.getpid()}"
    recorder = Recorder()
    async with running(serving(recorder, bind=f"unix://@{name}")):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, f"\0{name}")
        client = RawClient(*await asyncio.open_connection(sock=sock))
        conn = await opened(recorder)
        assert conn.local == f"@{name}"
        await client.close()


async def test_numbers() -> None:
    """Each connection of this process has its own."""
    recorder = Recorder()
    async with running(serving(recorder)) as server, AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(client_of(port_of(server)))
        await eventually(lambda: server.connections == 10)
        numbers = [conn.id for conn in server._connections]
        assert len(set(numbers)) == 10
        assert [conn.id for conn in server._connections] == numbers


@pytest.mark.parametrize("header", [encode_v1(CLIENT, OURS), encode_v2(ProxyHeader.between(CLIENT, OURS))])
@pytest.mark.parametrize("tls", [False, True])
async def test_behind_a_proxy(header: bytes, tls: bool) -> None:
    """The client the proxy speaks for is the peer, from the first call on; our own end is the one the proxy reached."""
    seen: list[str] = []

    class Opening(Recorder):
        def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            seen.append(conn.peer)

    recorder = Opening()
    options: dict[str, Any] = {"bind": ANY_TLS, "tls": server_tls()} if tls else {}
    async with running(serving(recorder, proxy_protocol=ProxyProtocol(), **options)) as server:
        client = await proxied(port_of(server), header, tls)
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        conn = recorder.opened
        assert seen == ["192.0.2.7:1234"]
        assert conn.peer_host == "192.0.2.7"
        assert conn.proxy_header is not None
        assert conn.proxy_header.source == CLIENT
        assert conn.local == f"127.0.0.1:{port_of(server)}"
        assert (conn.tls is not None) == tls
        client.writer.transport.abort()


async def proxied(port: int, header: bytes, tls: bool = False) -> RawClient:
    """A client that sends a PROXY header before anything else."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)
    writer.write(header)
    if tls:
        await asyncio.wait_for(writer.start_tls(client_context(), server_hostname="localhost"), 5)
    return RawClient(reader, writer)


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", encode_v2(ProxyHeader(command="local"))])
async def test_a_proxy_that_speaks_for_nobody(header: bytes) -> None:
    """Its own end counts."""
    recorder = Recorder()
    async with running(serving(recorder, proxy_protocol=ProxyProtocol())) as server:
        client = await proxied(port_of(server), header)
        conn = await opened(recorder)
        assert conn.peer == "{}:{}".format(*client.writer.get_extra_info("sockname"))
        client.writer.transport.abort()


async def test_a_client_behind_a_proxy_in_both_families() -> None:
    """An IPv4 client is the same one when the proxy writes it as IPv6."""
    recorder = Recorder()
    header = encode_v2(ProxyHeader.between(("::ffff:192.0.2.7", 1234), ("::ffff:198.51.100.1", 443)))
    async with running(serving(recorder, proxy_protocol=ProxyProtocol())) as server:
        client = await proxied(port_of(server), header)
        conn = await opened(recorder)
        assert conn.peer_host == "192.0.2.7"
        client.writer.transport.abort()


@pytest.mark.parametrize(("verify", "identity"), [(0, "alice"), (1, None)])
async def test_what_a_proxy_says_of_its_client(verify: int, identity: str | None) -> None:
    """The identity is what the proxy verified, and nothing that it did not."""
    recorder = Recorder()
    tls = ProxyTLS(flags=0x07, verify=verify, version="TLSv1.3", common_name="alice")
    header = encode_v2(replace(ProxyHeader.between(CLIENT, OURS), tls=tls))
    async with running(serving(recorder, proxy_protocol=ProxyProtocol())) as server:
        client = await proxied(port_of(server), header)
        conn = await opened(recorder)
        assert conn.identity == identity
        assert conn.tls is None
        client.writer.transport.abort()


@pytest.mark.parametrize("shown", [True, False])
async def test_identity_by_certificate(shown: bool, tmp_path: Path) -> None:
    """The verified certificate's; nobody's without one, where that is allowed."""
    recorder = Recorder()
    own: Certificate | None = issue(tmp_path, "client.example", common_name="alice") if shown else None
    tls = TLS(tls_files()[0], client_auth="optional", client_ca=tls_files()[1])
    async with running(serving(recorder, bind=ANY_TLS, tls=tls)) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(server), ssl=client_context(own), server_hostname="localhost"
        )
        conn = await opened(recorder)
        assert conn.tls is not None
        assert conn.identity == (None if not shown else conn.tls.identity)
        assert (conn.identity is not None) == shown
        writer.transport.abort()
        await asyncio.gather(reader.read(), return_exceptions=True)


async def test_the_ends_after_the_end() -> None:
    """A handler may ask who it was when it is told that the connection is gone, and later."""
    told: list[tuple[Any, ...]] = []

    class Asking(Recorder):
        def on_close(self, conn: Connection, reason: Any) -> None:
            super().on_close(conn, reason)
            told.append((conn.peer, conn.local, conn.tls, conn.identity, repr(conn)))

    recorder = Asking()
    async with running(serving(recorder, bind=ANY_TLS, tls=server_tls())) as server:
        async with client_of(port_of(server), tls=True) as client:
            own = client.writer.get_extra_info("sockname")
            await opened(recorder)
        await eventually(lambda: told)
        peer, local, info, identity, text = told[0]
        assert peer == f"127.0.0.1:{own[1]}"
        assert local.startswith("127.0.0.1:") or local == "unknown"
        assert info is not None
        assert identity is None
        assert peer in text
        conn = recorder.opened
        assert conn.peer == peer
        assert isinstance(conn.local, str)
        assert conn.credentials is None
        assert conn.tls is info


async def test_a_peer_that_is_gone_before_it_was_looked_at() -> None:
    """A connection that was reset while it waited to be accepted is no failure, and its place is free again."""
    recorder = Recorder()
    async with running(serving(recorder)) as server:
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", port_of(server)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            recorder.reasons.clear()
        recorder.reasons.clear()
        await asyncio.sleep(0)

        def all_gone() -> bool:
            recorder.reasons.clear()
            return not server.connections

        await eventually(all_gone)
        recorder.reasons.clear()
        async with client_of(port_of(server)) as client:
            await client.send(b"x")
            assert await client.exactly(1) == b"x"
