"""The PROXY header layer, over sockets: whose header is read, what comes of it, and what becomes of everybody else."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine import Address, CloseReason, open_socket
from forebay.engine.listener import release, serve_socket
from forebay.engine.loop import ticker
from forebay.engine.proxy_protocol import ProxyHeaderReader, ProxyProtocol
from forebay.wire.proxy_header import ProxyHeader, encode_v1, encode_v2
from tests.engine.support import open_sockets
from tests.support import RawClient, eventually

pytestmark = pytest.mark.both_loops

CLIENT = ("192.0.2.7", 1234)
HEADER = ProxyHeader.between(CLIENT, ("198.51.100.1", 443))
V1 = encode_v1(CLIENT, ("198.51.100.1", 443))
V2 = encode_v2(HEADER, checksum=True)
LOCAL = encode_v2(ProxyHeader(command="local"))
ROUNDS = int(os.environ.get("FOREBAY_TEST_ROUNDS", "100"))


class Echo(asyncio.Protocol):
    """What is above the layer: sends everything back."""

    def __init__(self, header: ProxyHeader | None) -> None:
        self.header = header

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Owner:
    """Owns layers, and notes what it is told."""

    def __init__(self, settings: ProxyProtocol, *, admits: bool = True) -> None:
        self.settings = settings
        self.admits = admits
        self.ticker = ticker()
        self.layers: list[ProxyHeaderReader] = []
        self.here: set[ProxyHeaderReader] = set()
        self.ended: list[tuple[CloseReason, str]] = []
        self.uppers: list[Echo] = []
        self.on_arrival: Callable[[ProxyHeaderReader], None] = lambda layer: None

    def arrived(self, layer: ProxyHeaderReader) -> bool:
        self.on_arrival(layer)
        if self.admits:
            self.here.add(layer)
        return self.admits

    def left(self, layer: ProxyHeaderReader, reason: CloseReason, detail: str) -> None:
        self.here.remove(layer)
        self.ended.append((reason, detail))

    def connect(self, transport: asyncio.Transport, header: ProxyHeader | None, rest: bytes) -> Echo:
        upper = Echo(header)
        self.uppers.append(upper)
        transport.set_protocol(upper)
        upper.connection_made(transport)
        if rest:
            upper.data_received(rest)
        return upper

    def make(self) -> ProxyHeaderReader:
        layer = ProxyHeaderReader(self, self.settings, self.connect)
        self.layers.append(layer)
        return layer


@asynccontextmanager
async def listening(owner: Owner, address: Address | None = None) -> AsyncIterator[int]:
    """A server of the owner's layers; its port. At the end nothing of it is left."""
    address = address or Address("tcp", "127.0.0.1", 0)
    before = open_sockets()
    sock = open_socket(address)
    port = sock.getsockname()[1]
    server = await serve_socket(sock, owner.make)
    try:
        yield port
    finally:
        for upper in owner.uppers:
            upper.transport.abort()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 5)
        release(sock, address)
    await eventually(lambda: open_sockets() == before)
    assert all(layer.due_at == float("inf") for layer in owner.layers), "a timer is left"


@asynccontextmanager
async def served(
    settings: ProxyProtocol | None = None, *, admits: bool = True
) -> AsyncIterator[tuple[Owner, RawClient]]:
    """One connection to a server that expects headers of 127.0.0.1."""
    owner = Owner(settings or ProxyProtocol(("127.0.0.1/32",)), admits=admits)
    async with listening(owner) as port:
        client = await RawClient.connect(port)
        try:
            yield owner, client
        finally:
            await client.close()


UNTRUSTING = ProxyProtocol(("10.0.0.0/8",))


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("pieces", ["whole", "bytes", "with data"])
async def test_a_header_is_read(header: bytes, pieces: str) -> None:
    """However it is cut, what comes after it is intact, and the peer is who the proxy speaks for."""
    async with served() as (owner, client):
        data = b"hello" if pieces == "with data" else b""
        if pieces == "bytes":
            client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(header)):
                await client.send(header[at : at + 1])
                await asyncio.sleep(0)
        else:
            await client.send(header + data)
        await eventually(lambda: owner.uppers)
        if not data:
            await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        (layer,), (upper,) = owner.layers, owner.uppers
        assert layer.upper is upper
        assert upper.header is not None
        assert upper.header.source == CLIENT
        assert (layer.peer_host, layer.peer) == ("192.0.2.7", "192.0.2.7:1234")
        assert owner.ended == []


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"])
async def test_a_proxy_that_speaks_for_itself(header: bytes) -> None:
    """A health check, or a client it cannot name: the connection's own ends count."""
    async with served() as (owner, client):
        await client.send(header + b"hello")
        assert await client.exactly(5) == b"hello"
        (layer,), (upper,) = owner.layers, owner.uppers
        assert upper.header is not None
        assert upper.header.source is None
        assert layer.peer_host == "127.0.0.1"
        assert layer.peer == "{}:{}".format(*client.writer.get_extra_info("sockname"))


async def test_a_header_for_ipv6() -> None:
    """Written in brackets where there is a port."""
    async with served() as (owner, client):
        await client.send(encode_v2(ProxyHeader.between(("2001:db8::1", 5), ("2001:db8::2", 6))) + b"x")
        await client.exactly(1)
        assert (owner.layers[0].peer_host, owner.layers[0].peer) == ("2001:db8::1", "[2001:db8::1]:5")


async def test_much_data_behind_the_header() -> None:
    """All of it arrives, in order."""
    async with served() as (_, client):
        data = os.urandom(1 << 20)
        sending = asyncio.create_task(client.send(V2 + data))
        assert await client.exactly(len(data), 20) == data
        await asyncio.wait_for(sending, 5)


async def test_others_are_served_as_they_are() -> None:
    """Who is not trusted is not listened to: its header is data, from the first byte."""
    async with served(UNTRUSTING) as (owner, client):
        await eventually(lambda: owner.uppers)  # it need not say anything
        await client.send(V1)
        assert await client.exactly(len(V1)) == V1
        assert owner.uppers[0].header is None
        assert owner.layers[0].peer_host == "127.0.0.1"


async def test_others_are_refused_where_a_header_is_required() -> None:
    """Header or not."""
    async with served(ProxyProtocol(("10.0.0.0/8",), required=True)) as (owner, client):
        assert await client.rest() == b""
        await eventually(lambda: owner.ended)
        ((reason, detail),) = owner.ended
        assert reason is CloseReason.PROXY_HEADER
        assert "not a trusted proxy" in detail


async def test_who_is_not_let_in() -> None:
    """The owner hears no more of it."""
    async with served(admits=False) as (owner, client):
        assert await client.rest() == b""
        await eventually(lambda: owner.layers)
        assert (owner.ended, owner.uppers) == ([], [])


HOSTILE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    b"PROXY " + b"x" * 200,
    V2[:12] + b"\x31" + V2[13:],
    V2[:14] + b"\xff\xff" + b"\0" * 70_000,
    V2[:-1] + bytes([V2[-1] ^ 1]),
    b"\0" * 100,
]


@pytest.mark.parametrize("data", HOSTILE)
@pytest.mark.parametrize("step", [1, 1 << 20])
async def test_hostile_bytes(data: bytes, step: int) -> None:
    """They end the connection for their name, at the first byte that cannot be of a header; nothing is answered."""
    async with served() as (owner, client):
        sent = 0
        while sent < len(data) and not owner.ended:
            try:
                await client.send(data[sent : sent + step])
            except ConnectionError:
                break
            sent += step
            await asyncio.sleep(0.001 if step == 1 else 0)
        await eventually(lambda: owner.ended)
        assert [reason for reason, _ in owner.ended] == [CloseReason.PROXY_HEADER]
        assert len(owner.ended[0][1].splitlines()) == 1
        assert owner.uppers == []
        assert await client.rest() == b""


@pytest.mark.parametrize("part", [b"", V1[:9], V2[:20]])
async def test_the_header_has_to_come_in_time(part: bytes) -> None:
    """From the beginning of the connection to its last byte, however busily the peer sends."""
    settings = ProxyProtocol(("127.0.0.1",), timeout=0.3)
    began = time.monotonic()
    async with served(settings) as (owner, client):
        await client.send(part)
        assert await client.rest() == b""
        assert 0.3 <= time.monotonic() - began < 2.0
        await eventually(lambda: owner.ended)
        ((reason, detail),) = owner.ended
        assert reason is CloseReason.PROXY_HEADER
        assert detail == f"no PROXY header within 0.3 s, {f'{len(part)} bytes of one came' if part else 'nothing came'}"


async def test_a_header_in_time_stops_the_clock() -> None:
    """The connection lives on past the timeout."""
    async with served(ProxyProtocol(("127.0.0.1",), timeout=0.2)) as (owner, client):
        await client.send(V1)
        await eventually(lambda: owner.uppers)
        await asyncio.sleep(0.6)  # what is not to happen can only be waited for
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"
        assert owner.ended == []


@pytest.mark.parametrize(
    ("part", "reason"),
    [(b"", CloseReason.PEER), (V1[:9], CloseReason.PROXY_HEADER), (V2[:20], CloseReason.PROXY_HEADER)],
)
async def test_a_peer_that_closes_too_early(part: bytes, reason: CloseReason) -> None:
    """One that said nothing is a probe; one that stops in a header breaks the protocol. Both also half-closed."""
    async with served() as (owner, client):
        await client.send(part)
        client.send_eof()
        assert await client.rest() == b""
        await eventually(lambda: owner.ended)
        assert [said for said, _ in owner.ended] == [reason]


async def test_a_reset() -> None:
    """In the middle of the header."""
    async with served() as (owner, client):
        await client.send(V1[:9])
        await eventually(lambda: owner.here)
        client.abort()
        await eventually(lambda: owner.ended)
        assert [reason for reason, _ in owner.ended] == [CloseReason.RESET]


async def test_the_owner_aborts() -> None:
    """For its own reason, on arrival or later; the first reason counts, and a connected layer is left alone."""
    async with served() as (owner, client):
        await eventually(lambda: owner.here)
        (layer,) = owner.layers
        layer.abort(CloseReason.DRAIN)
        layer.abort(CloseReason.STOPPED)
        assert await client.rest() == b""
        await eventually(lambda: owner.ended)
        layer.abort(CloseReason.STOPPED)
        assert owner.ended == [(CloseReason.DRAIN, "")]
    owner = Owner(UNTRUSTING)
    owner.on_arrival = lambda layer: layer.abort(CloseReason.DRAIN)
    async with listening(owner) as port:
        client = await RawClient.connect(port)
        assert await client.rest() == b""
        await eventually(lambda: owner.ended)
        assert (owner.ended, owner.uppers) == ([(CloseReason.DRAIN, "")], [])
        await client.close()
    async with served() as (owner, client):
        await client.send(V1)
        await eventually(lambda: owner.uppers)
        owner.layers[0].abort(CloseReason.STOPPED)
        await client.send(b"hello")
        assert await client.exactly(5) == b"hello"


async def test_a_unix_socket(tmp_path: Path) -> None:
    """Its peers have no address; whoever may connect is trusted where "unix" is."""
    for trusted, expected in ((("unix",), CLIENT), (("127.0.0.1",), None)):
        owner = Owner(ProxyProtocol(trusted))
        address = Address("unix", str(tmp_path / "proxied.sock"), 0)
        async with listening(owner, address):
            reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(address.host), 5)
            writer.write(V1 + b"hello")
            await asyncio.wait_for(reader.readuntil(b"hello"), 5)
            header = owner.uppers[0].header
            assert (header.source if header else None) == expected
            assert owner.layers[0].peer_host == (expected[0] if expected else "")
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), 5)


async def test_both_families_on_one_socket() -> None:
    """An IPv4 proxy is known in IPv6's clothes too."""
    owner = Owner(ProxyProtocol(("127.0.0.1", "::1")))
    async with listening(owner, Address("tcp", "*", 0)) as port:
        for host in ("127.0.0.1", "::1"):
            client = await RawClient.connect(port, host)
            await client.send(V2 + b"x")
            assert await client.exactly(1) == b"x"
            await client.close()
        assert [layer.peer_host for layer in owner.layers] == [CLIENT[0], CLIENT[0]]


async def test_nothing_leaks() -> None:
    """Silent, hostile, early, reset: round after round nothing is left, in the timer wheel neither."""
    owner = Owner(ProxyProtocol(("127.0.0.1",), timeout=60))
    async with listening(owner) as port:
        before = open_sockets()
        for number in range(ROUNDS):
            client = await RawClient.connect(port)
            await client.send((b"", V1[:7], b"\0", V1 + b"x", V2[:30])[number % 5])
            if number % 2:
                client.abort()
            await client.close()
        await eventually(lambda: not owner.here or all(layer.upper for layer in owner.here))
        await eventually(lambda: open_sockets() == before)
        assert not owner.ticker
        assert len(owner.ended) + len(owner.uppers) == ROUNDS


def test_settings() -> None:
    """Who is trusted: by address, network, and in the other family's clothes. Nonsense is refused."""
    settings = ProxyProtocol(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])
    for host in ("10.1.2.3", "192.0.2.1", "::ffff:10.9.9.9", "2001:db8::7"):
        assert settings.trusts(host)
    for host in ("11.1.2.3", "192.0.2.2", "::ffff:11.9.9.9", "2001:db9::7", "", "unix", "nonsense"):
        assert not settings.trusts(host)
    assert ProxyProtocol().trusts("127.0.0.1")
    assert ProxyProtocol().trusts("")
    assert ProxyProtocol(("fe80::/10",)).trusts("fe80::1%eth0")
    assert hash(settings)
    with pytest.raises(ValueError, match="must list proxies"):
        ProxyProtocol(())
    with pytest.raises(ValueError, match="must list proxies"):
        ProxyProtocol("10.0.0.0/8")
    with pytest.raises(ValueError, match="host bits set"):
        ProxyProtocol(("10.0.0.1/8",))
    with pytest.raises(ValueError, match="timeout"):
        ProxyProtocol(timeout=0)


@given(st.ip_addresses())
def test_nobody_is_trusted_by_accident(address: IPv4Address | IPv6Address) -> None:
    """Who is in no network of the list is not, however its address is written."""
    settings = ProxyProtocol(("0.0.0.0/1", "::/1"))
    plain = getattr(address, "ipv4_mapped", None) or address
    trusted = plain.packed[0] < 128
    assert settings.trusts(str(address)) == trusted
    if address.version == 4:
        assert settings.trusts(f"::ffff:{address}") == trusted
