"""TLS connections, with the standard library's TLS at the other end, and with bytes that no TLS would send."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.certificates import Certificate, TLSInfo
from forebay.engine.handler import CloseReason
from forebay.engine.loop import ticker
from forebay.engine.tls import TLSLayer
from forebay.engine.tls_settings import TLS, ClientTLS
from forebay.engine.tls_sides import ClientSide, ServerSide, Side
from tests.engine.support import open_sockets
from tests.support import eventually

pytestmark = pytest.mark.both_loops

WAIT = 5.0


class Files:
    """A CA, and certificates of all kinds, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.foreign = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.server = self.issue("localhost", "127.0.0.1")
        past: dict[str, Any] = {"not_before": datetime(2019, 1, 1), "not_after": datetime(2020, 1, 1)}  # noqa: DTZ001  (as trustme wants them)
        self.client = self.issue("client.example", common_name="a client")
        self.expired_client = self.issue("client.example", **past)
        self.foreign_client = self.issue("client.example", authority=self.foreign)

    def issue(self, *names: str, authority: trustme.CA | None = None, **options: Any) -> Certificate:
        """A new certificate and its key."""
        leaf = (authority or self.authority).issue_cert(*names, key_type=trustme.KeyType.ECDSA, **options)
        chain = self.directory / f"{id(leaf)}-{random.random()}.pem"
        key = chain.with_suffix(".key")
        leaf.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return Certificate(str(chain), str(key))

    def client_context(self, certificate: Certificate | None = None, **attributes: Any) -> ssl.SSLContext:
        """The standard library's end."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            context.load_cert_chain(*certificate.files)
        for name, value in attributes.items():
            setattr(context, name, value)
        return context

    def server_context(self, certificate: Certificate | None = None) -> ssl.SSLContext:
        """The standard library's other end."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(certificate or self.server).files)
        return context


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """See :class:`Files`."""
    return Files(tmp_path_factory.mktemp("tls"))


class Owner:
    """Owns layers, and notes what became of them."""

    def __init__(self) -> None:
        self.ticker = ticker()
        self.layers: list[TLSLayer] = []
        self.ends: list[tuple[CloseReason, str]] = []
        self.admits = True

    def arrived(self, layer: TLSLayer) -> bool:
        if self.admits:
            self.layers.append(layer)
        return self.admits

    def left(self, layer: TLSLayer, reason: CloseReason, detail: str) -> None:
        self.layers.remove(layer)
        self.ends.append((reason, detail))

    async def end(self) -> tuple[CloseReason, str]:
        """The first end there is."""
        await eventually(lambda: self.ends)
        return self.ends[0]


class Upper(asyncio.Protocol):
    """Sends back what it gets, as fast as the peer takes it; notes all calls."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.received = bytearray()
        self.calls: list[str] = []
        self.echoes = True
        self.error: Exception | None = None
        self.half_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")
        self.transport = cast("TLSLayer", transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading(), "delivered while paused"
        self.calls.append("data")
        self.received += data
        if self.echoes:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.half_open

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc
        self.owner.layers.remove(self.transport)

    @property
    def info(self) -> TLSInfo:
        found = self.transport.get_extra_info("forebay_tls")
        assert isinstance(found, TLSInfo)
        return found


class Server:
    """Listens with layers."""

    def __init__(self, side: ServerSide) -> None:
        self.side = side
        self.owner = Owner()
        self.uppers: list[Upper] = []
        self.keep = True
        self.port = 0

    def accept(self) -> TLSLayer:
        upper = Upper(self.owner)
        if self.keep:
            self.uppers.append(upper)
        return TLSLayer(upper, self.side, self.owner)

    async def upper(self, number: int = 0) -> Upper:
        """The protocol of a connection whose handshake is done."""
        await eventually(lambda: len(self.uppers) > number and self.uppers[number].calls)
        return self.uppers[number]


@asynccontextmanager
async def serving(settings: TLS) -> AsyncIterator[Server]:
    """A server, on any port."""
    side = ServerSide(settings)
    await side.start()
    server = Server(side)
    listener = await asyncio.get_running_loop().create_server(server.accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for layer in list(server.owner.layers):
            layer.abort(CloseReason.STOPPED)
        await eventually(lambda: not server.owner.layers)
        await side.stop()
    assert (side.gate.in_progress, side.gate.waiting) == (0, 0)
    assert not server.owner.ticker


@asynccontextmanager
async def connected(
    server: Server, context: ssl.SSLContext | None, name: str | None = "localhost"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The event loop's TLS as the client, or without ``context`` plain TCP."""
    async with asyncio.timeout(WAIT):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, server_hostname=name if context else None
        )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), WAIT)


@contextmanager
def blocking(
    server: Server, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None, **options: Any
) -> Iterator[ssl.SSLSocket]:
    """The standard library's blocking client, for a thread of its own."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session, **options) as sock,
    ):
        yield sock


class Memory:
    """The standard library's TLS as a client, record by record, on a plain connection."""

    def __init__(self, context: ssl.SSLContext, name: str = "localhost") -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def step(self, received: bytes = b"") -> bytes:
        """Take what came, go on with the handshake, give what is to be sent."""
        self.incoming.write(received)
        with suppress(ssl.SSLWantReadError):
            self.ssl.do_handshake()
        return self.outgoing.read()

    def sealed(self, data: bytes) -> bytes:
        """``data``, as records."""
        self.ssl.write(data)
        return self.outgoing.read()

    async def shake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The whole handshake."""
        received = b""
        while self.ssl.version() is None or not self._done():
            writer.write(self.step(received))
            if self._done():
                break
            received = await asyncio.wait_for(reader.read(65536), WAIT)
            assert received

    def _done(self) -> bool:
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"hello") -> bool:
    """Whether ``data`` comes back."""
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), WAIT) == data


# The connection


async def test_messages_come_and_go(files: Files) -> None:
    """What was agreed on is told; data arrives; the client's end is an end, not an error."""
    async with serving(TLS(files.server, alpn=["echo/2", "echo/1"])) as server:
        context = files.client_context()
        context.set_alpn_protocols(["echo/1", "other"])
        async with connected(server, context) as (reader, writer):
            assert await echoed(reader, writer)
            upper = await server.upper()
            info = upper.info
            assert (info.version, info.alpn, info.server_name, info.resumed) == (
                "TLSv1.3",
                "echo/1",
                "localhost",
                False,
            )
            assert (info.certificate, info.identity) == (None, None)
            assert upper.transport.peer == f"127.0.0.1:{writer.get_extra_info('sockname')[1]}"
            assert upper.transport.get_extra_info("peername")[0] == upper.transport.peer_host == "127.0.0.1"
            assert "open" in repr(upper.transport)
        await eventually(lambda: "lost" in upper.calls)
        assert (upper.calls, upper.error) == (["made", "data", "eof", "lost"], None)
        assert (server.owner.ends, server.side.statistics()["handshakes"]) == ([], 1)
        upper.transport.write(b"too late")
        upper.transport.resume_reading()
        upper.transport.abort()
        assert upper.transport.get_write_buffer_size() == 0


async def test_an_application_protocol_that_is_not_ours(files: Files) -> None:
    """The client is served without one."""
    async with serving(TLS(files.server, alpn=["h2"])) as server:
        context = files.client_context()
        context.set_alpn_protocols(["smtp"])
        async with connected(server, context) as (reader, writer):
            assert await echoed(reader, writer)
            assert (await server.upper()).info.alpn is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_much_in_both_directions(files: Files, version: ssl.TLSVersion) -> None:
    """10 MB arrive whole, in any chunks, while neither side keeps more than a few watermarks of it."""
    data = os.urandom(10_000_000)
    most = 0
    async with (
        serving(TLS(files.server)) as server,
        connected(server, files.client_context(maximum_version=version)) as (reader, writer),
    ):

        async def send() -> None:
            nonlocal most
            position, rng = 0, random.Random(7)
            while position < len(data):
                size = rng.choice([1, 100, 5000, 16384, 16385, 300_000])
                writer.write(data[position : position + size])
                position += size
                await writer.drain()
                if server.uppers and server.uppers[0].calls:
                    most = max(most, server.uppers[0].transport.get_write_buffer_size())

        sending = asyncio.create_task(send())
        await eventually(
            lambda: server.uppers and server.uppers[0].calls and not server.uppers[0].transport.is_reading()
        )
        assert await asyncio.wait_for(reader.readexactly(len(data)), 30) == data
        await sending
        assert most < 1_000_000
        assert server.uppers[0].received == data


async def test_a_large_write(files: Files) -> None:
    """One write of 10 MB, and the close behind it, arrive whole, with TLS's own end."""
    data = os.urandom(10_000_000)
    async with serving(TLS(files.server)) as server:

        def call() -> bytes:
            received = bytearray()
            with blocking(server, files.client_context(), suppress_ragged_eofs=False) as sock:
                while part := sock.recv(65536):
                    received += part
            return bytes(received)

        calling = asyncio.create_task(asyncio.to_thread(call))
        upper = await server.upper()
        upper.transport.writelines([data[:1000], memoryview(data)[1000:]])
        upper.transport.close()
        assert upper.transport.is_closing()
        upper.transport.write(b"never")
        assert await asyncio.wait_for(calling, 30) == data
        await eventually(lambda: "lost" in upper.calls)
        assert upper.error is None


async def test_what_is_paused_is_not_delivered(files: Files) -> None:
    """Nothing comes while reading is paused, nor before resume_reading has returned; then all of it does, once."""
    data = os.urandom(3_000_000)
    async with serving(TLS(files.server)) as server, connected(server, files.client_context()) as (_, writer):
        upper = await server.upper()
        upper.echoes = False
        upper.transport.pause_reading()
        upper.transport.pause_reading()
        writer.write(data)
        writer.close()
        for _ in range(200):
            await asyncio.sleep(0)
        assert not upper.received
        while len(upper.received) < len(data):  # a little at a time
            before = len(upper.received)
            upper.transport.resume_reading()
            assert len(upper.received) == before
            await eventually(lambda before=before: len(upper.received) > before)  # type: ignore[misc]
            upper.transport.pause_reading()
        upper.transport.resume_reading()
        await eventually(lambda: "lost" in upper.calls)
        assert upper.received == data
        assert upper.calls[-2:] == ["eof", "lost"]


async def test_half_close(files: Files) -> None:
    """Who has sent its end is still answered; who was sent our end is still heard."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        client = Memory(files.client_context())
        await client.shake(reader, writer)
        upper = await server.upper()
        upper.half_open = True
        upper.echoes = False
        writer.write(client.sealed(b"question"))
        with suppress(ssl.SSLWantReadError):
            client.ssl.unwrap()
        writer.write(client.outgoing.read() + b"what follows is ignored")
        writer.write_eof()
        await eventually(lambda: "eof" in upper.calls)
        assert upper.received == b"question"
        upper.transport.write(b"answer")
        upper.transport.write_eof()
        upper.transport.write(b"never")
        client.incoming.write(await asyncio.wait_for(reader.read(-1), WAIT))
        assert client.ssl.read(100) == b"answer"
        with pytest.raises(ssl.SSLZeroReturnError):
            client.ssl.read(100)
        assert upper.calls == ["made", "data", "eof"]


async def test_what_was_unread_when_we_ended_our_side(files: Files) -> None:
    """OpenSSL forgets what it has not decrypted when it says goodbye; we do not."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        client = Memory(files.client_context())
        await client.shake(reader, writer)
        upper = await server.upper()
        upper.echoes = False
        first, second = client.sealed(b"one"), client.sealed(b"two")
        received = upper.data_received

        def data_received(data: bytes) -> None:
            upper.transport.write_eof()
            received(data)

        upper.data_received = data_received  # type: ignore[method-assign]
        upper.transport.set_protocol(upper)
        assert upper.transport.get_protocol() is upper
        writer.write(first + second)
        await eventually(lambda: upper.received == b"onetwo")
        writer.write(client.sealed(b"three"))
        await eventually(lambda: upper.received == b"onetwothree")


async def test_truncation_is_a_reset(files: Files) -> None:
    """TCP's end without TLS's is an error, after what came before it: anybody could have cut the rest."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        client = Memory(files.client_context())
        await client.shake(reader, writer)
        writer.write(client.sealed(b"pay 100") + client.sealed(b"0 euros")[:-1])
        writer.write_eof()
        upper = await server.upper()
        await eventually(lambda: "lost" in upper.calls)
        assert isinstance(upper.error, ConnectionResetError)
        assert upper.received == b"pay 100"
        assert "eof" not in upper.calls
        assert server.side.statistics()["truncated"] == 1


async def test_a_record_that_does_not_decrypt(files: Files) -> None:
    """What came before is delivered, the peer gets an alert, and the connection is lost with an error."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        client = Memory(files.client_context())
        await client.shake(reader, writer)
        upper = await server.upper()
        upper.echoes = False
        writer.write(client.sealed(b"good") + b"\x17\x03\x03\x00\x20" + b"z" * 32)
        client.incoming.write(await asyncio.wait_for(reader.read(-1), WAIT))
        with pytest.raises(ssl.SSLError, match="alert bad record mac"):
            client.ssl.read(100)
        writer.close()
        await eventually(lambda: "lost" in upper.calls)
        assert upper.received == b"good"
        assert isinstance(upper.error, ConnectionResetError)
        assert str(upper.error) == "the client sent a record that does not decrypt"
        assert server.side.statistics()["broken"] == 1


async def test_many_small_messages_leave_as_one_write(files: Files) -> None:
    """A hundred records in one chunk are delivered as one, and answered at once."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        client = Memory(files.client_context())
        await client.shake(reader, writer)
        writer.write(b"".join(client.sealed(b"%02d" % number) for number in range(100)))
        upper = await server.upper()
        await eventually(lambda: len(upper.received) == 200)
        assert upper.calls.count("data") < 10


async def test_what_waits_can_be_waited_for(files: Files) -> None:
    """What is written while data is delivered goes to the transport below before anybody counts on its watermarks."""
    async with serving(TLS(files.server)) as server, connected(server, files.client_context()) as (reader, writer):
        upper = await server.upper()
        sizes = []

        def data_received(data: bytes) -> None:
            upper.transport.write(b"answer")
            upper.transport.get_write_buffer_size()
            sizes.append(cast("Any", upper.transport)._outgoing.pending)

        upper.data_received = data_received  # type: ignore[method-assign]
        upper.transport.set_protocol(upper)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(6), WAIT) == b"answer"
        assert sizes == [0]


async def test_a_connection_that_is_not_wanted(files: Files) -> None:
    """An owner who admits nobody hears nothing more of it."""
    async with serving(TLS(files.server)) as server:
        server.owner.admits = False
        async with connected(server, None) as (reader, _):
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), WAIT) == b""
        assert (server.owner.ends, server.uppers[0].calls) == ([], [])


async def test_abort(files: Files) -> None:
    """An aborted connection is gone at once; one in its handshake is gone for the reason given."""
    async with serving(TLS(files.server)) as server:
        async with connected(server, files.client_context()) as (reader, _):
            upper = await server.upper()
            upper.transport.abort()
            with suppress(OSError):
                await asyncio.wait_for(reader.read(), WAIT)
            assert upper.calls == ["made", "lost"]
        async with connected(server, None):
            await eventually(lambda: server.owner.layers)
            server.owner.layers[0].abort(CloseReason.DRAIN)
            assert (await server.owner.end())[0] is CloseReason.DRAIN
        assert server.side.statistics()["failed"] == {}


# Handshakes that fail


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("kind", "counted", "detail", "alert"),
    [
        (None, "no-certificate", "the client sent no certificate", "certificate required|handshake failure"),
        ("expired_client", "expired", "the client's certificate has expired", "certificate expired"),
        ("foreign_client", "untrusted", "the client's certificate is not signed by a CA we trust", "unknown ca"),
    ],
)
async def test_clients_that_are_refused(
    files: Files, version: ssl.TLSVersion, kind: str | None, counted: str, detail: str, alert: str
) -> None:
    """The owner reads why, and so does the client, though in TLS 1.3 it thinks that it is connected, and sends."""
    async with serving(TLS(files.server, client_auth="required", client_ca=files.ca)) as server:
        context = files.client_context(getattr(files, kind) if kind else None, maximum_version=version)

        def call() -> None:
            with blocking(server, context) as sock:
                sock.sendall(b"x" * 100_000)
                sock.recv(1)

        with pytest.raises(ssl.SSLError, match=alert):
            await asyncio.wait_for(asyncio.to_thread(call), WAIT)
        assert await server.owner.end() == (CloseReason.HANDSHAKE, detail)
        assert server.side.statistics()["failed"] == {counted: 1}
        assert server.uppers[0].calls == []


async def test_a_client_that_is_known(files: Files) -> None:
    """Its certificate was verified, so it is who it says, also when it resumes."""
    async with serving(TLS(files.server, client_auth="required", client_ca=files.ca)) as server:
        context = files.client_context(files.client)

        def call(session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
            with blocking(server, context, session=session) as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
                return sock.session

        session = None
        for number in range(2):
            session = await asyncio.wait_for(asyncio.to_thread(call, session), WAIT)
            info = (await server.upper(number)).info
            assert info.resumed is (number == 1)
            assert info.certificate is not None
            assert (info.identity, info.certificate.common_name) == ("client.example", "a client")
            assert "trustme" in info.certificate.issuer
            assert info.certificate.not_after > datetime.now(UTC) + timedelta(days=1)


async def test_a_client_may_stay_unknown(files: Files) -> None:
    """Optional: who shows nothing is served without an identity; who shows something false is refused."""
    async with serving(TLS(files.server, client_auth="optional", client_ca=files.ca)) as server:
        async with connected(server, files.client_context()) as (reader, writer):
            assert await echoed(reader, writer)
            assert (await server.upper()).info.identity is None
        async with connected(server, files.client_context(files.client)) as (reader, writer):
            assert await echoed(reader, writer)
            assert (await server.upper(1)).info.identity == "client.example"
        with suppress(OSError):
            async with connected(server, files.client_context(files.foreign_client)) as (reader, writer):
                await asyncio.wait_for(reader.read(), WAIT)
        assert (await server.owner.end())[1] == "the client's certificate is not signed by a CA we trust"


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not TLS at all: looks like HTTP"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "not TLS at all: looks like a PROXY protocol header"),
        (b"\x00" * 300_000, "not TLS at all: begins with 00 00 00 00 00 00 00 00"),
        (b"\x16\x03\x01\xff\xff\x01", "not TLS at all: begins with 16 03 01 ff ff 01"),
        (b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c" + b"\xff" * 12, "the client broke the protocol: length mismatch"),
    ],
)
async def test_garbage(files: Files, sent: bytes, detail: str) -> None:
    """Bytes that are not a handshake are told apart, and the connection is closed in an orderly way."""
    async with serving(TLS(files.server)) as server, connected(server, None) as (reader, writer):
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), WAIT)
        assert answer == b"" or answer[0] == 0x15  # an alert
        writer.close()
        assert await server.owner.end() == (CloseReason.HANDSHAKE, detail)


async def test_versions_that_are_too_old(files: Files) -> None:
    """A client below the minimum is told so, and the owner what it offers."""
    async with serving(TLS(files.server, minimum_version="1.3")) as server:
        with pytest.raises(ssl.SSLError, match="protocol version"):
            async with connected(server, files.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)):
                pass
        assert (await server.owner.end())[1] == "no protocol version in common (client offers TLS 1.2)"
        assert server.side.statistics()["failed"] == {"version": 1}


async def test_a_client_that_does_not_trust_us(files: Files) -> None:
    """Its alert is told."""
    async with serving(TLS(files.server)) as server:

        def call() -> None:
            with pytest.raises(ssl.SSLError), blocking(server, ssl.create_default_context()):
                pass

        await asyncio.wait_for(asyncio.to_thread(call), WAIT)
        assert await server.owner.end() == (CloseReason.HANDSHAKE, "alert from the peer: unknown CA")


async def test_clients_that_leave_early(files: Files) -> None:
    """One that says nothing is a probe, not a failure; one that leaves in the middle is one; so is a reset."""
    async with serving(TLS(files.server)) as server:
        hello = Memory(files.client_context()).step()
        for sent, count in ((b"", 1), (hello[:50], 2), (hello, 3)):
            async with connected(server, None) as (_, writer):
                writer.write(sent)
                writer.write_eof()
                await eventually(lambda count=count: len(server.owner.ends) == count)  # type: ignore[misc]
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            await eventually(lambda: server.owner.layers)
            sock.sendall(hello[:20])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await eventually(lambda: len(server.owner.ends) == 4)
        assert [detail for _, detail in server.owner.ends] == [
            "the client closed without a word",
            "the peer closed in the middle of the handshake",
            "the peer closed in the middle of the handshake",
            "the connection was reset in the middle of the handshake",
        ]
        assert server.owner.ends[0][0] is CloseReason.PEER
        assert server.side.statistics()["failed"] == {"closed": 2, "reset": 1}


async def test_a_slow_handshake(files: Files) -> None:
    """A byte now and then does not keep a handshake alive, neither before the client's first message nor after it."""
    async with serving(TLS(files.server, handshake_timeout=0.3, handshakes_at_once=1)) as server:
        hello = Memory(files.client_context()).step()
        for number, sent in enumerate((b"", hello[:5], hello)):
            async with connected(server, None) as (reader, writer):
                writer.write(sent)

                async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    while not reader.at_eof():
                        writer.write(b"\x01")
                        await asyncio.sleep(0.05)

                dripping = asyncio.create_task(drip(reader, writer)) if sent == hello[:5] else None
                await eventually(lambda number=number: len(server.owner.ends) > number)  # type: ignore[misc]
                if dripping is not None:
                    dripping.cancel()
        reasons, details = zip(*server.owner.ends, strict=True)
        assert set(reasons) == {CloseReason.HANDSHAKE_TIMEOUT}
        assert details[0] == "the client's first message did not come within 0.3 s"
        assert details[2] == "the peer did not go on with the handshake within 0.3 s"
        assert server.side.statistics()["timed_out"] == 3


async def test_handshakes_wait_for_their_turn(files: Files) -> None:
    """With a turn for one, the second waits until the first is done, gone, or too late; who says nothing takes none."""
    async with serving(TLS(files.server, handshakes_at_once=1, handshake_timeout=2.0)) as server:
        context = files.client_context()
        async with (
            connected(server, None),  # it says nothing
            connected(server, None) as first,
            connected(server, None) as second,
            connected(server, None) as third,
        ):
            clients = []
            for count, (_, writer) in enumerate((first, second, third)):
                client = Memory(context)
                clients.append(client)
                writer.write(client.step())
                await eventually(lambda count=count: server.side.statistics()["waiting"] == count)  # type: ignore[misc]
                await eventually(lambda: server.side.statistics()["in_progress"] == 1)
            first[1].write(clients[0].step(await asyncio.wait_for(first[0].read(65536), WAIT)))
            await server.upper(1)
            await eventually(lambda: server.side.statistics()["waiting"] == 1)
            second[1].close()
            await eventually(lambda: server.side.statistics()["waiting"] == 0)
            third[1].write(clients[2].step(await asyncio.wait_for(third[0].read(65536), WAIT)))
            await server.upper(3)
            assert server.side.statistics()["waited"] == 2
            assert server.side.statistics()["handshakes"] == 2


async def test_waiting_counts_for_the_timeout(files: Files) -> None:
    """Who waits for a turn too long is closed, and says so."""
    async with serving(TLS(files.server, handshakes_at_once=1, handshake_timeout=0.5)) as server:
        assert server.side.gate.enter(cast("Any", server))
        async with connected(server, None) as (_, writer):
            writer.write(Memory(files.client_context()).step())
            assert (await server.owner.end())[1] == "it was not its turn within 0.5 s"
        server.side.gate.leave(cast("Any", server))


# Our own client


@asynccontextmanager
async def calling(port: int, side: Side) -> AsyncIterator[Upper]:
    """A layer as the client."""
    owner = Owner()
    upper = Upper(owner)
    upper.echoes = False
    await asyncio.get_running_loop().create_connection(lambda: TLSLayer(upper, side, owner), "127.0.0.1", port)
    await eventually(lambda: upper.calls or owner.ends)
    try:
        yield upper
    finally:
        for layer in list(owner.layers):
            layer.close()
        await eventually(lambda: not owner.layers)
        assert not side.gate.in_progress


async def client_of(settings: ClientTLS, port: int, host: str = "localhost") -> Side:
    """The end of calls to ``port``."""
    side = ClientSide(settings)
    await side.fresh()
    return side.target(host, port)


async def test_our_client_calls_another_server(files: Files) -> None:
    """The standard library's server is called, verified, and asked by name."""
    ends = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5)).upper() + b"x" * 1_000_000)
        ends.append(await reader.read())
        writer.close()

    context = files.server_context()
    context.set_alpn_protocols(["echo"])
    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    side = await client_of(ClientTLS(ca=files.ca, alpn=["echo"]), port)
    async with calling(port, side) as upper:
        assert (upper.info.alpn, upper.info.server_name) == ("echo", "localhost")
        assert upper.info.certificate is not None
        assert "localhost" in upper.info.certificate.dns_names
        upper.transport.write(b"hello")
        await eventually(lambda: len(upper.received) == 1_000_005)
        assert upper.received.startswith(b"HELLO")
    await eventually(lambda: ends == [b""])
    listener.close()


@pytest.mark.parametrize(
    ("options", "host", "detail"),
    [
        ({"ca": "foreign"}, "localhost", "the server's certificate is not signed by a CA we trust"),
        ({"ca": "ours"}, "other.example", "the server's certificate is for another host name: "),
        ({"ca": "ours", "server_hostname": "x.example"}, "localhost", "the server's certificate is for another host"),
        ({"ca": "ours"}, "127.0.0.2", "the server's certificate is for another IP address"),
    ],
)
async def test_servers_our_client_does_not_trust(
    files: Files, tmp_path: Path, options: dict[str, str], host: str, detail: str
) -> None:
    """Our client refuses, and says why; the server reads our alert."""
    files.foreign.cert_pem.write_to_path(str(tmp_path / "foreign.pem"))
    options = {**options, "ca": files.ca if options["ca"] == "ours" else str(tmp_path / "foreign.pem")}
    async with serving(TLS(files.server)) as server:
        side = await client_of(ClientTLS(**cast("Any", options)), server.port, host)
        async with calling(server.port, side) as upper:
            reason, text = await upper.owner.end()
            assert reason is CloseReason.HANDSHAKE
            assert text.startswith(detail)
        assert (await server.owner.end())[1].startswith("alert from the peer: ")


async def test_our_client_shows_who_it_is(files: Files) -> None:
    """With a certificate it is known; the refusal of one that has none reaches it as an error that says so."""
    async with serving(TLS(files.server, client_auth="required", client_ca=files.ca)) as server:
        side = await client_of(ClientTLS(ca=files.ca, certificate=files.client), server.port)
        async with calling(server.port, side):
            assert (await server.upper()).info.identity == "client.example"
        async with calling(server.port, await client_of(ClientTLS(ca=files.ca), server.port)) as upper:
            await eventually(lambda: "lost" in upper.calls)
            assert str(upper.error) == "alert from the peer: certificate required"


async def test_our_client_without_verification(files: Files) -> None:
    """Any server will do, and who it is stays unknown."""
    async with serving(TLS(files.server)) as server:
        side = await client_of(ClientTLS(verify=False), server.port, "wrong.example")
        async with calling(server.port, side) as upper:
            assert upper.info.certificate is None


async def test_a_server_that_does_not_speak_tls(files: Files) -> None:
    """A server that answers with something else is told apart from one that is silent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with calling(port, await client_of(ClientTLS(ca=files.ca), port)) as upper:
        assert await upper.owner.end() == (CloseReason.HANDSHAKE, "not TLS at all")
    listener.close()


# Bytes in any pieces


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def taken(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 40_000), max_size=8),
    st.lists(st.integers(1, 70_000), min_size=1, max_size=20),
    st.booleans(),
)
def test_any_split_of_the_bytes(files: Files, messages: list[int], cuts: list[int], pauses: bool) -> None:
    """However the network cuts the records, and whenever reading pauses, what was written is what arrives."""

    async def main() -> None:
        side = ServerSide(TLS(files.server))
        await side.start()
        owner = Owner()
        upper = Upper(owner)
        layer = TLSLayer(upper, side, owner)
        wire, client = Wire(), Memory(files.client_context())
        layer.connection_made(wire)
        position = 0

        async def deliver(data: bytes) -> None:
            nonlocal position
            while data:
                size = cuts[position % len(cuts)]
                position += 1
                layer.data_received(data[:size])
                data = data[size:]
                if pauses and upper.calls:
                    layer.pause_reading()
                    layer.resume_reading()
                    await asyncio.sleep(0)

        while not upper.calls:
            await deliver(client.step(wire.taken()))
        written = [os.urandom(size) for size in messages]
        for message in written:
            await deliver(client.sealed(message))
        await eventually(lambda: len(upper.received) == sum(messages))
        data = b"".join(written)
        assert upper.received == data
        client.incoming.write(wire.taken())
        answer = bytearray()
        with suppress(ssl.SSLWantReadError):
            while True:
                answer += client.ssl.read(65536)
        assert answer == data
        layer.close()
        layer.connection_lost(None)
        await side.stop()

    asyncio.run(main())


async def test_a_peer_that_makes_us_answer_and_reads_nothing(files: Files) -> None:
    """What OpenSSL answers on its own (new keys, again and again) is bounded while the peer takes nothing of it."""
    async with serving(TLS(files.server)) as server, connected(server, files.client_context()) as (_, writer):
        upper = await server.upper()
        layer: Any = upper.transport
        upper.pause_writing = lambda: None  # type: ignore[method-assign]  # who would pause reading is safe

        class Asked:
            """Stands in for OpenSSL that is asked for new keys: the standard library's client cannot ask."""

            def pending(self) -> int:
                return 0

            def read(self, size: int) -> bytes:
                layer._incoming.read()
                layer._outgoing.write(b"k" * 1000)
                raise ssl.SSLWantReadError

        layer._sslobj = Asked()
        layer.resume_writing()
        for _ in range(100):
            layer.data_received(b"?")
        assert not layer.is_closing()  # the peer reads
        layer.pause_writing()
        for _ in range(100):
            layer.data_received(b"?")
        writer.close()
        await eventually(lambda: "lost" in upper.calls)
        assert str(upper.error) == "the peer makes us answer, and reads nothing"
        assert server.side.statistics()["broken"] == 1


# Leaks


async def churn(server: Server, context: ssl.SSLContext, connections: int, at_once: int = 50) -> None:
    """One round: connect, say something, disconnect, so many times."""
    server.keep = False
    turns = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with turns, connected(server, context) as (reader, writer):
            assert await echoed(reader, writer)

    await asyncio.gather(*(one() for _ in range(connections)))
    await eventually(lambda: not server.owner.layers)


async def resident_after_rounds(files: Files, rounds: int = 20, connections: int = 2000) -> list[int]:
    """Bytes resident after each round of :func:`churn`; what the acceptance of 5% is measured by."""
    found = []
    async with serving(TLS(files.server)) as server:
        context = files.client_context()
        for _ in range(rounds):
            await churn(server, context, connections)
            with open("/proc/self/statm") as statm:
                found.append(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return found


def alive(kind: type[object]) -> int:
    """How many objects of ``kind`` there are."""
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


@pytest.mark.timeout(120)
async def test_nothing_is_left_of_connections(files: Files) -> None:
    """Layers and protocols are gone with their connections, without the garbage collector; so are the descriptors."""
    sockets: Callable[[], int] = open_sockets
    async with serving(TLS(files.server)) as server:
        context = files.client_context()
        await churn(server, context, 20)
        before = sockets()
        gc.collect()
        gc.disable()
        try:
            await churn(server, context, 200)
            for _ in range(30):
                async with connected(server, None) as (reader, writer):
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    await asyncio.wait_for(reader.read(), WAIT)
            await eventually(lambda: not server.owner.layers)
            await eventually(lambda: alive(TLSLayer) <= 1 and alive(Upper) <= 1)
        finally:
            gc.enable()
        await eventually(lambda: sockets() <= before)
        assert server.side.statistics()["failed"] == {"not-tls": 30}


@pytest.mark.timeout(120)
async def test_memory_does_not_grow(files: Files) -> None:
    """A short version of what the soak test does at length."""
    found = await resident_after_rounds(files, rounds=6, connections=150)
    assert found[-1] <= found[2] * 1.05
