"""The ways into a server: every kind of address, PROXY headers and TLS on the way, bounds, and its end meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import Admission, Connection, Keepalive, ProxyProtocol, TCPServer
from forebay.wire.framing import Lines
from forebay.wire.proxy_header import encode_v1
from tests.engine.connecting import (
    ANY,
    ANY_TLS,
    Recorder,
    Style,
    client_context,
    client_of,
    closed,
    coroutine_style,
    event_style,
    port_of,
    server_tls,
    serving,
)
from tests.engine.support import open_sockets
from tests.support import RawClient, eventually, running

pytestmark = pytest.mark.both_loops

STYLES = pytest.mark.parametrize("style", [event_style, coroutine_style])
WAYS = pytest.mark.parametrize("way", ["tcp", "tls", "proxy", "proxy and tls"])


def way_in(way: str, **options: Any) -> dict[str, Any]:
    """What makes a server whose clients come that way."""
    found: dict[str, Any] = dict(options)
    if "tls" in way:
        found |= {"bind": ANY_TLS, "tls": server_tls(handshake_timeout=options.pop("handshake_timeout", 5.0))}
        found.pop("handshake_timeout", None)
    if "proxy" in way:
        found["proxy_protocol"] = ProxyProtocol()
    return found


def header(host: str = "192.0.2.7", port: int = 1234) -> bytes:
    return encode_v1((host, port), ("198.51.100.1", 443))


async def come(server: TCPServer, way: str, host: str = "192.0.2.7") -> RawClient:
    """A client that has come in."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port_of(server)), 5)
    if "proxy" in way:
        writer.write(header(host))
    try:
        if "tls" in way:
            await asyncio.wait_for(writer.start_tls(client_context(), server_hostname="localhost"), 5)
    except BaseException:
        writer.transport.abort()
        raise
    return RawClient(reader, writer)


def leave(client: RawClient) -> None:
    """End a client's connection, whatever state it is in."""
    client.writer.transport.abort()


async def is_answered(client: RawClient) -> bool:
    """Whether the client is served; if not, its connection is over."""
    with suppress(ConnectionError):
        await client.send(b"hello\n")
        return await client.line() == b"hello\n"
    return False


@STYLES
async def test_all_kinds_of_addresses_at_once(style: Style, tmp_path: Path) -> None:
    """One server, one handler, whichever way a client comes; its counters are those of all together."""
    path = str(tmp_path / "s")
    recorder = Recorder()
    bind = [ANY, ANY_TLS, f"unix://{path}", "tcp://[::1]:0", "tcp://*:0"]
    server = serving(recorder, style, bind=bind, tls=server_tls(), framing=Lines())
    if style is event_style:
        server = TCPServer(Recorder, bind=bind, tls=server_tls(), framing=Lines())
    async with running(server), AsyncExitStack() as stack:
        assert [address.scheme for address in server.addresses] == ["tcp", "tls", "unix", "tcp", "tcp"]
        assert len({address.port for address in server.addresses}) == 5
        clients = [
            await stack.enter_async_context(client_of(port_of(server, 0))),
            await stack.enter_async_context(client_of(port_of(server, 1), tls=True)),
            RawClient(*await asyncio.open_unix_connection(path)),
            await stack.enter_async_context(client_of(port_of(server, 3), host="::1")),
            await stack.enter_async_context(client_of(port_of(server, 4), host="::1")),
            await stack.enter_async_context(client_of(port_of(server, 4))),
        ]
        assert [await is_answered(client) for client in clients] == [True] * 6
        assert server.connections == 6
        assert server.statistics()["bytes_in"] == 36
        assert server.statistics()["tls"]["handshakes"] == 1
        draining = asyncio.create_task(server.drain())
        for client in clients:
            assert await client.rest() == b""
        clients[2].writer.close()
        await asyncio.wait_for(draining, 5)
    assert not Path(path).exists()


@WAYS
async def test_max_connections(way: str) -> None:
    """It bounds all who are in, those still on their way included; one that leaves makes room."""
    recorder = Recorder()
    server = TCPServer(Recorder, framing=Lines(), max_connections=3, **way_in(way, bind=ANY))
    assert recorder.conn is None
    async with running(server):
        clients = [await come(server, way) for _ in range(2)]
        assert [await is_answered(client) for client in clients] == [True] * 2
        silent = await RawClient.connect(port_of(server))  # it is in the way of a third, where there is a way
        await eventually(lambda: server.statistics()["accepted"] == 3)
        for _ in range(5):
            with suppress(ssl.SSLError, ConnectionError):
                refused = await come(server, way)
                assert not await is_answered(refused)
                leave(refused)
        assert server.statistics()["refused_by"] == {"max-connections": 5}
        silent.abort()
        await eventually(lambda: server._doors.inside == 2)
        clients.append(await come(server, way))
        assert await is_answered(clients[2])
        for client in clients:
            leave(client)
        await eventually(lambda: server._doors.inside == 0)
        assert not server._doors._hosts
        assert not server._entrance._arriving


@WAYS
async def test_per_peer(way: str) -> None:
    """Of one host only so many are served, by the client's address where a proxy says it."""
    server = TCPServer(Recorder, framing=Lines(), admission=Admission(per_peer=2), **way_in(way, bind=ANY))
    async with running(server):
        clients = [await come(server, way) for _ in range(2)]
        assert [await is_answered(client) for client in clients] == [True] * 2
        with suppress(ssl.SSLError, ConnectionError):
            refused = await come(server, way)
            assert not await is_answered(refused)
            leave(refused)
        assert server.statistics()["refused_by"] == {"per-peer": 1}
        if "proxy" in way:
            clients.append(await come(server, way, "192.0.2.8"))
            assert await is_answered(clients[2])
        leave(clients.pop(0))
        await eventually(lambda: server.connections == len(clients))
        clients.append(await come(server, way))
        assert await is_answered(clients[-1])
        for client in clients:
            leave(client)
        await eventually(lambda: server._doors.inside == 0)
        assert not server._doors._hosts


@pytest.mark.parametrize("bind", ["tcp://*:0", "tls://*:0"])
async def test_per_peer_on_a_socket_of_both_families(bind: str) -> None:
    """An IPv4 client is counted as such, also while its handshake is under way."""
    tls = server_tls() if bind.startswith("tls") else None
    server = TCPServer(Recorder, bind=bind, tls=tls, admission=Admission(per_peer=2))
    async with running(server):
        clients = [await RawClient.connect(port_of(server)) for _ in range(3)]
        await eventually(lambda: server.statistics()["refused"] == 1)
        assert server._doors.count("127.0.0.1") == 2
        for client in clients:
            client.abort()
        await eventually(lambda: server._doors.inside == 0)


async def test_peers_on_a_unix_socket_are_not_bounded(tmp_path: Path) -> None:
    """They have no address that they could have too many connections from."""
    path = str(tmp_path / "s")
    server = TCPServer(Recorder, bind=f"unix://{path}", framing=Lines(), admission=Admission(per_peer=1))
    async with running(server):
        clients = [RawClient(*await asyncio.open_unix_connection(path)) for _ in range(5)]
        assert [await is_answered(client) for client in clients] == [True] * 5
        for client in clients:
            await client.close()


@WAYS
async def test_the_accept_rate(way: str) -> None:
    """A flood is let in at the rate that was said; the rest is closed at once, and costs no handshake."""
    server = TCPServer(Recorder, framing=Lines(), admission=Admission(rate=0.01, burst=5), **way_in(way, bind=ANY))
    async with running(server):
        outcomes = []
        clients = []
        for _ in range(20):
            try:
                clients.append(await come(server, way))
                outcomes.append(await is_answered(clients[-1]))
            except (ssl.SSLError, ConnectionError):
                outcomes.append(False)
        assert outcomes == [True] * 5 + [False] * 15
        assert server.statistics()["refused_by"] == {"accept-rate": 15}
        if "tls" in way:
            assert server.statistics()["tls"]["failed"] == {}
        for client in clients:
            leave(client)


@WAYS
async def test_keepalive(way: str) -> None:
    """The kernel probes what was accepted, whatever lies between it and the connection."""
    recorder = Recorder()
    server = serving(recorder, keepalive=Keepalive(idle=7, interval=3, probes=2), **way_in(way, bind=ANY))
    async with running(server):
        client = await come(server, way)
        await eventually(lambda: recorder.conn)
        sock = recorder.opened.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        leave(client)


@pytest.mark.parametrize("way", ["tls", "proxy", "proxy and tls"])
@pytest.mark.parametrize("words", [b"", b"PROXY TCP4 ", header() + b"\x16\x03\x01"])
async def test_stop_while_they_come_in(way: str, words: bytes) -> None:
    """Whatever they have said by then, they are cut at once, named as stopped, and nothing is left of them."""
    if words.startswith(b"PROXY") and way == "tls":
        words = b"\x16\x03\x01\x02\x00\x01"
    before, tasks = open_sockets(), len(asyncio.all_tasks())
    server = TCPServer(Recorder, framing=Lines(), **way_in(way, bind=ANY))
    await server.start()
    clients = [await RawClient.connect(port_of(server)) for _ in range(10)]
    for client in clients:
        await client.send(words)
    await eventually(lambda: server.statistics()["accepted"] == 10)
    await asyncio.sleep(0.02)
    await asyncio.wait_for(server.stop(), 2)
    assert closed(server) == {"stopped": 10}
    assert not server._entrance._arriving
    assert server._doors.inside == 0
    for client in clients:
        await client.rest()
        await client.close()
    await eventually(lambda: open_sockets() == before)
    assert len(asyncio.all_tasks()) == tasks
    assert not len(server.ticker)


@pytest.mark.parametrize("way", ["tls", "proxy", "proxy and tls"])
async def test_drain_while_they_come_in(way: str) -> None:
    """One that is on its way is served, and told of the drain; nobody new comes; it ends when they have."""
    told: list[str] = []

    class Polite(Recorder):
        def on_drain(self, conn: Connection) -> None:
            told.append(conn.peer_host)
            conn.write("goodbye")
            conn.close()

    server = TCPServer(Polite, framing=Lines(), **way_in(way, bind=ANY))
    async with running(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await eventually(lambda: server.statistics()["accepted"] == 1)
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0.02)
        assert not draining.done()
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(port_of(server))
        if "proxy" in way:
            writer.write(header())
        if "tls" in way:
            await asyncio.wait_for(writer.start_tls(client_context(), server_hostname="localhost"), 5)
        client = RawClient(reader, writer)
        assert await client.rest() == b"goodbye\n"
        await client.close()
        await asyncio.wait_for(draining, 5)
        assert told == ["192.0.2.7" if "proxy" in way else "127.0.0.1"]


async def test_a_drain_does_not_wait_for_ever_for_a_handshake() -> None:
    """One that says nothing is cut by the handshake's timeout, in a drain too."""
    server = TCPServer(Recorder, **way_in("tls", bind=ANY, handshake_timeout=0.3))
    async with running(server):
        client = await RawClient.connect(port_of(server))
        await eventually(lambda: server.statistics()["accepted"] == 1)
        await asyncio.wait_for(server.drain(), 2)
        assert closed(server) == {"handshake-timeout": 1}
        await client.close()


@WAYS
async def test_a_handler_that_cannot_be_made(way: str) -> None:
    """Its connection is closed; no place is lost to it, and the server serves the next one, drains and stops."""
    failing = True

    def make() -> Recorder:
        if failing:
            raise RuntimeError("no handler today")
        return Recorder()

    before = open_sockets()
    server = TCPServer(make, framing=Lines(), **way_in(way, bind=ANY))
    async with running(server):
        with capture_logs() as logs:
            for _ in range(3):
                with suppress(ssl.SSLError, ConnectionError, OSError):
                    client = await come(server, way)
                    assert not await is_answered(client)
                    leave(client)
        failures = [entry for entry in logs if entry["event"] == "handler could not be made"]
        assert [str(entry["exc_info"]) for entry in failures] == ["no handler today"] * 3
        assert server._doors.inside == 0
        assert server.connections == 0
        failing = False
        client = await come(server, way)
        assert await is_answered(client)
        leave(client)
        await asyncio.wait_for(server.drain(), 5)
    await eventually(lambda: open_sockets() <= before)


@STYLES
@pytest.mark.parametrize("way", ["proxy", "proxy and tls"])
async def test_what_comes_with_the_header(style: Style, way: str) -> None:
    """Bytes behind the header, in the same chunk or in any other cut, are the client's."""
    recorder = Recorder()
    async with running(serving(recorder, style, framing=Lines(), **way_in(way, bind=ANY))) as server:
        if way == "proxy":
            words = header() + b"hello\nhello\n"
            for cut in range(1, len(words), 7):
                recorder.reasons.clear()
                client = await RawClient.connect(port_of(server))
                await client.send(words[:cut])
                await asyncio.sleep(0)
                await client.send(words[cut:])
                assert await client.exactly(12) == b"hello\nhello\n"
                await client.close()
                await eventually(lambda: not server.connections)
        else:
            client = await come(server, way)
            assert await is_answered(client)
            leave(client)


@STYLES
async def test_who_is_refused_as_of_its_header_is_not_heard(style: Style) -> None:
    """What it sent with the header is not given to a handler."""
    recorder = Recorder()
    server = serving(recorder, style, framing=Lines(), **way_in("proxy", bind=ANY, admission=Admission(per_peer=1)))
    async with running(server):
        client = await come(server, "proxy")
        await client.send(b"first\n")
        assert await client.line() == b"first\n"
        refused = await RawClient.connect(port_of(server))
        await refused.send(header() + b"second\n")
        assert await refused.rest() == b""
        assert recorder.messages == ["first"]
        assert server.statistics()["refused_by"] == {"per-peer": 1}
        await refused.close()
        leave(client)


async def test_broken_headers_and_handshakes() -> None:
    """Each has its reason in the counters, and a line in the log that says who it was and what was wrong."""
    recorder = Recorder()
    async with running(serving(recorder, **way_in("proxy and tls", bind=ANY))) as server:
        with capture_logs() as logs:
            for words in (b"GET / HTTP/1.1\r\n", header() + b"GET / HTTP/1.1\r\n"):
                client = await RawClient.connect(port_of(server))
                await client.send(words)
                await client.rest()
                await client.close()
            await eventually(lambda: len(closed(server)) == 2)
        assert closed(server) == {"handshake": 1, "proxy-header": 1}
        lines = [entry for entry in logs if entry["event"] == "connection failed"]
        assert {entry["reason"] for entry in lines} == {"handshake", "proxy-header"}
        assert all(entry["detail"] and entry["peer"] for entry in lines)
        (entry,) = (entry for entry in lines if entry["reason"] == "handshake")
        assert entry["peer"] == "127.0.0.1:{}".format(entry["peer"].rpartition(":")[2])
        families = {family.name: family for family in server.collect()}
        samples = families["forebay_tcp_closed"].samples
        assert {dict(sample.labels)["reason"]: sample.value for sample in samples} == {
            "handshake": 1,
            "proxy-header": 1,
        }
        assert families["forebay_tls_failed"].samples[0].value == 1
        assert recorder.conn is None


async def test_nobody_but_the_proxy() -> None:
    """Where a header is required, others are refused, by name; and who is let in has to send one in time."""
    recorder = Recorder()
    options: dict[str, Any] = {"proxy_protocol": ProxyProtocol(("192.0.2.1",), required=True)}
    async with running(serving(recorder, **options)) as server:
        async with client_of(port_of(server)) as client:
            assert await client.rest() == b""
        assert closed(server) == {"proxy-header": 1}
    options = {"proxy_protocol": ProxyProtocol(timeout=0.2)}
    async with running(serving(recorder, **options)) as server:
        async with client_of(port_of(server)) as client:
            assert await client.rest() == b""
        assert closed(server) == {"proxy-header": 1}
        assert server._doors.inside == 0


@WAYS
async def test_peers_that_come_and_go(way: str) -> None:
    """Connects that are reset at any moment leave no place taken, no descriptor, no timer and no task."""
    server = TCPServer(Recorder, framing=Lines(), **way_in(way, bind=ANY))
    async with running(server):
        loop = asyncio.get_running_loop()
        client = await come(server, way)
        assert await is_answered(client)
        leave(client)
        await eventually(lambda: not server._doors.inside)
        before, tasks = open_sockets(), len(asyncio.all_tasks())

        async def blip(number: int) -> None:
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", port_of(server)))
                words = (header() if "proxy" in way else b"") + b"\x16\x03\x01\x00\x08xx"
                with suppress(OSError):
                    await loop.sock_sendall(sock, words[: number % (len(words) + 1)])
                if number % 3:
                    await asyncio.sleep(0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        for start in range(0, 200, 20):
            await asyncio.gather(*(blip(start + number) for number in range(20)))
        await eventually(lambda: not server._doors.inside)
        assert not server._doors._hosts
        assert not server._entrance._arriving
        await eventually(lambda: open_sockets() == before and len(asyncio.all_tasks()) == tasks)
        assert not len(server.ticker)
